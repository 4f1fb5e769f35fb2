"""Published results in miniature: each prints the paper's form or figure beside ours."""
