"""Work on real tokens only: trim a batch to its longest row, put rows of like length together.

A batch costs its rows times its longest row, and replies differ in length by a factor of ten. A few
small functions keep padding out. They need lengths on the host; on a GPU that means waiting for
it, so whoever calls them in a loop fetches the lengths once.
Shapes: B responses, L prompt tokens, T response tokens.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_edu.lab.helpdesk import PAD


def lengths_of(prompts: Tensor, responses: Tensor) -> Tensor:
    """Tokens of each prompt and of each reply, (B, 2), on the host."""
    return torch.stack([(prompts != PAD).sum(1), (responses != PAD).sum(1)], 1).cpu()


def trim(
    prompts: Tensor, responses: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Prompts (B, L) and replies (B, T) without the columns that are padding in all rows."""
    longest = (lengths_of(prompts, responses) if lengths is None else lengths).amax(0).tolist()
    return prompts[:, prompts.shape[1] - longest[0] :], responses[:, : longest[1]]


def take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows], where `rows` may be on the host and x on a GPU, without waiting for it."""
    return x[rows.to(x.device, non_blocking=True)]


def by_length(
    fn: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    prompts: Tensor,
    responses: Tensor,
    lengths: Tensor,
    parts: int,
) -> list[Tensor]:
    """fn(prompts, responses), in `parts` groups of like length, each trimmed to its longest.

    `fn` maps (b, l), (b, t) to tensors (b, t) or (b,); they come back in the order of the rows, 0
    where a group was trimmed. Values and gradients on real tokens are those of one call for all.
    Buys a third of an update's time on the desk's own lengths.
    """
    order = lengths[:, 1].argsort(stable=True)
    results: list[tuple[Tensor, ...]] = []
    for rows in order.tensor_split(min(parts, len(order))):
        x, y = trim(take(prompts, rows), take(responses, rows), lengths[rows])
        missing = responses.shape[1] - y.shape[1]
        results.append(tuple(r if r.dim() == 1 else pad(r, (0, missing)) for r in fn(x, y)))
    back = order.argsort()
    return [take(torch.cat(part), back) for part in zip(*results, strict=True)]


def grouped_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Row numbers in batches of like length: every row once.

    With a `generator` (on the CPU) rows of equal length and the order of the batches are shuffled;
    without, the shortest come first.
    """
    lengths = lengths.cpu().float()
    if generator is not None:  # jitter by a token or so: batches differ from epoch to epoch
        lengths = lengths + 2 * torch.rand(len(lengths), generator=generator)
    batches = list(lengths.argsort(stable=True).split(batch_size))
    order = (
        range(len(batches))
        if generator is None
        else torch.randperm(len(batches), generator=generator).tolist()
    )
    for i in order:
        yield batches[i]
