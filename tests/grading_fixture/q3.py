"""The masked policy-gradient loss, for the tests of the grader."""


def pg_loss(logprobs, advantages, mask):
    ### BEGIN SOLUTION
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
    ### END SOLUTION
