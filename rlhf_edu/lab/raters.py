"""Raters: people who see two replies and say which is better, each answer paid for.

A rater reads the gold score through a tinted glass and then chooses with some noise:

    u(x, y)       = gold(x, y) + length_bias · words
                               + sales_bias · sales words + confidence_bias · confident words
    Pr(a beats b) = σ((u_a − u_b) / noise)       and with probability `flip` the label is turned

There are two ways to end with a wrong reward model, and they need different cures:

    biased raters    the labels themselves carry the bias;
    thin coverage    the labels are honest, but in the pairs shown the better reply is nearly always
                     the longer one, so "longer" explains the labels as well as "better" does.

Pairs can also be chosen to help: replies *matched* in style give taste nothing to choose by.
Shapes: N pairs, K candidate replies a prompt, T response tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score, style_of
from rlhf_edu.lab.model import Transformer
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.sampling import sample


@dataclass(frozen=True)
class RaterConfig:
    """Who compares, what they like for the wrong reasons, and which pairs they are shown."""

    seed: int = 0  # of prompts, candidates and noise
    n_pairs: int = 6000  # prompts for which a pair is shown; each comparison costs one label
    length_bias: float = 0.0  # utility a word, for its own sake
    sales_bias: float = 0.0  # utility a sales word (gold takes 0.25 off)
    confidence_bias: float = 0.0  # utility an over-confident word (gold takes 0.25 off)
    noise: float = 0.5  # scale of the choice noise, in units of gold
    flip: float = 0.0  # share of labels turned round by mistake
    pairing: str = "random"  # which two of the candidates are shown: random, thin or matched
    candidates: int = 2  # replies sampled for each prompt, K
    response_length: int = 32  # longest reply, in tokens

    def __post_init__(self) -> None:
        check_range(
            self,
            seed=(0, 2**31),
            n_pairs=(1, 10**7),
            noise=(1e-3, 1e3),
            flip=(0, 0.5),
            length_bias=(-10, 10),
            sales_bias=(-10, 10),
            confidence_bias=(-10, 10),
            pairing=("random", "thin", "matched"),
            candidates=(2, 64),
            response_length=(1, 48),
        )


class LabelBudget:
    """Counts labels and refuses to spend more than it holds.

    >>> budget = LabelBudget(10)
    >>> budget.spend(4)
    >>> budget.left
    6
    """

    def __init__(self, labels: int):
        if not isinstance(labels, int) or isinstance(labels, bool) or labels < 0:
            raise InputError(f"labels = {labels!r}: allowed is a whole number, 0 or more")
        self.total, self.spent = labels, 0

    @property
    def left(self) -> int:
        """Labels that can still be bought."""
        return self.total - self.spent

    def spend(self, n: int) -> None:
        """Pay for `n` labels; raises InputError, and spends nothing, if fewer are left."""
        if n < 0:
            raise InputError(f"{n} labels asked for: labels that were paid for are not given back")
        if n > self.left:
            raise InputError(
                f"{n} labels asked for, {self.left} of {self.total} left in the budget: "
                "ask for fewer pairs or start with a larger budget"
            )
        self.spent += n


@dataclass(frozen=True)
class Preferences:
    """Compared pairs: `rows` (N,) of the desk, `chosen` and `rejected` (N, T) token ids."""

    rows: Tensor
    chosen: Tensor
    rejected: Tensor


def rater_utility(config: RaterConfig, responses: Tensor, rows: helpdesk.Desk) -> Tensor:
    """u(x, y) (B,): the gold score as these raters read it."""
    style = style_of(responses, rows)
    return (
        gold_score(responses, rows).total
        + config.length_bias * style.words
        + config.sales_bias * style.sales * style.words
        + config.confidence_bias * style.confident * style.words
    )


def choose_pairs(
    config: RaterConfig, candidates: Tensor, rows: helpdesk.Desk
) -> tuple[Tensor, Tensor, Tensor]:
    """Which two of K candidates (N, K, T) are shown for each prompt: (N, T) twice; if any, (N,).

    random: the first two. thin: the two for which "longer" and "better" agree most. matched: two
    different replies with equally many words, sales words and over-confident words, where there
    are such; other prompts are not shown and cost nothing.
    """
    N, K, _ = candidates.shape
    here = torch.arange(N, device=candidates.device)
    if config.pairing == "random":
        return candidates[:, 0], candidates[:, 1], here >= 0
    first, second = torch.triu_indices(K, K, 1, device=candidates.device)
    flat, wide = candidates.flatten(0, 1), rows[here.repeat_interleave(K)]
    style, gold = style_of(flat, wide), gold_score(flat, wide).total.view(N, K)
    words = style.words.view(N, K)
    if config.pairing == "thin":
        fitness = (gold[:, first] - gold[:, second]) * (words[:, first] - words[:, second])
        shown = here >= 0
    else:
        marks = torch.stack([words, style.sales.view(N, K) * words,
                             style.confident.view(N, K) * words]).round()
        alike = (marks[:, :, first] == marks[:, :, second]).all(0)
        same = (candidates[:, first] == candidates[:, second]).all(-1)
        fitness = (alike & ~same).float()
        shown = fitness.any(1)
    best = fitness.argmax(1)
    return candidates[here, first[best]], candidates[here, second[best]], shown


def collect_preferences(
    config: RaterConfig, policy: Transformer, budget: LabelBudget
) -> Preferences:
    """Replies of `policy` to training prompts, compared by the raters; a pair costs a label."""
    device = policy.embed.weight.device
    generator = torch.Generator().manual_seed(config.seed)
    table = helpdesk.desk().to(device)

    # 1. Prompts, and candidate replies to each.
    rows = helpdesk.draw_prompts(helpdesk.desk(), config.n_pairs, generator).to(device)
    chunks = [
        sample(policy, table.prompts[part], config.response_length, generator,
               copies=config.candidates)[0]
        for part in rows.split(-(-2048 // config.candidates))
    ]
    candidates = torch.cat(chunks).view(config.n_pairs, config.candidates, -1)

    # 2. Which two of them are shown.
    a, b, shown = choose_pairs(config, candidates, table[rows])
    rows, a, b = rows[shown], a[shown], b[shown]
    if len(rows) == 0:
        raise InputError(
            f"RaterConfig.n_pairs = {config.n_pairs}: no prompt has two different replies alike in "
            "style among its candidates; ask for more prompts or more candidates"
        )
    budget.spend(len(rows))

    # 3. The raters choose.
    lead = rater_utility(config, a, table[rows]) - rater_utility(config, b, table[rows])
    u = torch.rand(2, len(rows), generator=generator).to(device)
    a_wins = (u[0] < torch.sigmoid(lead / config.noise)) ^ (u[1] < config.flip)
    return Preferences(rows, torch.where(a_wins[:, None], a, b), torch.where(a_wins[:, None], b, a))
