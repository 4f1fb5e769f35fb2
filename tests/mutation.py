"""Do the tests notice when a formula is wrong?  python tests/mutation.py [--module NAME]

Makes small mistakes in the concept modules, one at a time (a flipped sign, min for max, a dropped
mask, a missing or an extra detach, a shifted index, < for <=, another constant, a deleted check …),
runs the tests of that module on each, those of the function first, and prints every mistake that no
test noticed. Those in EQUIVALENT are not mistakes, and the reason stands beside each.

A mutant lives in the memory of a forked child of one warm interpreter: nothing is written to disk,
and nothing is imported twice. Needs os.fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import os
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    "ranking_loss",
    "advantage",
    "policy_gradient",
    "ppo_clip",
    "kl_penalty",
    "preference_optimization",
    "best_of_n",
    "exact",
    "as_printed",
]
TIME_LIMIT = 30  # seconds a mutant; one that hangs has been noticed

# (module, function, mutant) → why no test could tell it from the original
LOG = (
    "math.log(torch.finfo({0}.dtype).max / 1000)  →  math.log1p(torch.finfo({0}.dtype).max / 1000)"
)
NO_FLOOR = "min(ρ, clip(ρ, floor, 1+ε)) is min(ρ, 1+ε) for every floor: the point of T2"
ZERO_OVER = "only taken where the standard deviation is 0, and 0 over any number is 0"
LIKE = "_length takes the dtype and the shape of its last argument, no number"
EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("advantage", "masked_whiten", "1.0  →  2.0"): ZERO_OVER,
    ("advantage", "grpo_advantage", "1.0  →  2.0"): ZERO_OVER,
    ("ppo_clip", "probability_ratio", LOG.format("log_ratio")): "log(1 + 10^35) is log(10^35)",
    ("kl_penalty", "kl_estimate", LOG.format("log_r")): "log(1 + 10^35) is log(10^35)",
    ("kl_penalty", "exact_kl", "log_p  →  log_p.detach()  #2"): (
        "the gradient it would add is Σ p·∇log p = ∇Σp = 0"
    ),
    ("preference_optimization", "dpo_loss", "chosen  →  chosen.detach()  #3"): LIKE,
    ("preference_optimization", "dpo_loss", "chosen  →  chosen.detach()  #4"): LIKE,
    ("exact", "enumerate_world", "1  →  2  #2"): (
        "one more round of the loop finds no unfinished prefix and adds nothing"
    ),
    ("exact", "enumerate_world", "1  →  2  #6"): "a 2 in the mask is turned into True like a 1",
    ("exact", "advantages", "torch.zeros_like(logits)  →  torch.ones_like(logits)"): (
        "Q + 1 has the mean V + 1 under the policy, and Q − V is what it was"
    ),
    ("exact", "ppo_clip_objective", "gain > 0  →  gain >= 0"): (
        "at gain = 0 the product with gain is 0 on either side, and so is its gradient"
    ),
    ("as_printed", "as_printed_one_reference_loss", "1 - cliprange  →  1 + cliprange"): NO_FLOOR,
    ("as_printed", "as_printed_one_reference_loss", "1  →  2"): NO_FLOOR,
    ("as_printed", "as_printed_one_reference_loss", "1  →  0"): NO_FLOOR,
}

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
RENAME = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "amax": "amin",
    "sum": "mean",
    "mean": "sum",
    "all": "any",
    "any": "all",
    "square": "abs",
    "sqrt": "square",
    "exp": "expm1",
    "expm1": "exp",
    "log": "log1p",
    "sigmoid": "tanh",
    "relu": "abs",
    "logsigmoid": "sigmoid",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "logsumexp": "sum",
    "cumsum": "cumprod",
    "cumprod": "cumsum",
    "argmax": "argmin",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "new_zeros": "new_ones",
}
DROP = {"detach", "clamp", "bool", "square", "sqrt", "mean", "abs", "to", "neg", "log", "exp"}
# Where a gradient may be lost: names that carry one. (Advantages and returns carry none.)
LEARNS = {
    "logprobs", "values", "chosen", "rejected", "rewards", "rewards_a", "rewards_b", "logits",
    "ratio", "near", "surrogate_loss", "penalty", "policy_logps", "policy_chosen_logps",
    "policy_rejected_logps", "log_r", "log_p", "log_ratio", "z", "delta", "lead",
}  # fmt: skip
# … but not in what is a measure or a constant by design.
NO_GRADIENT = {
    "advantage", "best_of_n",  # all of these two modules
    "ranking_accuracy", "standardize_rewards", "clip_fraction", "outside_fraction",
    "penalized_rewards", "policy_table", "visits", "advantages", "score_gradient",
    "best_of_n_law", "_log_through",
}  # fmt: skip
LOOKED_AT = {"shape", "dtype", "device", "dim", "detach", "new_zeros", "view_as"}


def replacements(node: ast.AST, gradient: bool) -> Iterator[ast.AST]:
    """The small mistakes that can be made at this node."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in BINARY:
        yield ast.AugAssign(node.target, BINARY[type(node.op)](), node.value)
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for new in COMPARE[type(op)]:
                yield ast.Compare(
                    node.left, node.ops[:i] + [new()] + node.ops[i + 1 :], node.comparators
                )
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values  # all the other conditions forgotten
    if isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, (int, float)):
            yield ast.Constant(node.value + 1)
            if node.value:
                yield ast.Constant(0 * node.value)
        elif isinstance(node.value, str) and re.fullmatch(r"\w+", node.value):
            yield ast.Constant("other")
    if isinstance(node, ast.Slice) and (node.lower or node.upper or node.step):
        yield ast.Slice(None, None, None)
        if node.lower and not node.upper:
            yield ast.Slice(None, node.lower, node.step)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    if isinstance(node, ast.If) and any(isinstance(x, ast.Raise) for x in ast.walk(node)):
        yield ast.Pass()
    if isinstance(node, ast.Name) and node.id in LEARNS and gradient:
        yield ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])
    if not isinstance(node, ast.Call):
        return
    name, args, keywords = node.func, node.args, node.keywords
    if isinstance(name, ast.Attribute):
        if name.attr in RENAME:
            yield ast.Call(ast.Attribute(name.value, RENAME[name.attr], ast.Load()), args, keywords)
        if name.attr in DROP and not (
            isinstance(name.value, ast.Name) and name.value.id == "torch"
        ):
            yield name.value
        if name.attr == "where":
            yield ast.Call(name, [args[0], args[2], args[1]], [])
            yield args[1]
    if isinstance(name, ast.Name) and name.id in RENAME:
        yield ast.Call(ast.Name(RENAME[name.id], ast.Load()), args, keywords)
    for i, k in enumerate(keywords):
        if k.arg in ("min", "max"):
            other = ast.keyword({"min": "max", "max": "min"}[k.arg], k.value)
            yield ast.Call(name, args, keywords[:i] + [other] + keywords[i + 1 :])
    if len(args) >= 2 and ast.unparse(name).split(".")[-1] not in (
        "min",
        "max",
        "minimum",
        "maximum",
    ):
        yield ast.Call(name, [args[1], args[0], *args[2:]], keywords)


def skipped(tree: ast.Module) -> set[int]:
    """ids of nodes where a change means nothing: annotations, texts, imports."""
    out: set[int] = set()

    def skip(node: ast.AST | None) -> None:
        out.update(id(x) for x in ast.walk(node)) if node else None

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            skip(node.returns)
        elif isinstance(node, ast.arg):
            skip(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            skip(node.annotation)
        elif isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            skip(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("want", "got"):
            skip(node)  # the words of a message
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_check"):
            out.update(id(x) for x in ast.walk(node) if isinstance(x, ast.Name))  # only looked at
        elif isinstance(node, ast.Compare):
            out.update(id(x) for x in ast.walk(node) if isinstance(x, ast.Name))
        elif isinstance(node, ast.Attribute) and node.attr in LOOKED_AT:
            out.update([id(node.value)] if isinstance(node.value, ast.Name) else [])
    return out


def mutants(module: str) -> Iterator[tuple[str, str, ast.Module]]:
    """(function, what was changed, the module with the mistake in it)."""
    tree = ast.parse((ROOT / "rlhf_edu" / f"{module}.py").read_text(encoding="utf-8"))
    skip, seen = skipped(tree), {}
    for top in tree.body:
        if not isinstance(top, (ast.FunctionDef, ast.ClassDef)):
            continue
        gradient = module not in NO_GRADIENT and top.name not in NO_GRADIENT
        for index, node in enumerate(ast.walk(top)):
            if id(node) in skip:
                continue
            for number, new in enumerate(replacements(node, gradient)):
                before, after = (" ".join(ast.unparse(x).split())[:90] for x in (node, new))
                if before == after:
                    continue
                what = f"{before}  →  {after}"
                seen[top.name, what] = seen.get((top.name, what), 0) + 1
                if seen[top.name, what] > 1:
                    what += f"  #{seen[top.name, what]}"
                mutated = copy.deepcopy(tree)
                place = mutated.body[tree.body.index(top)]
                target = list(ast.walk(place))[index]
                fresh = list(replacements(target, gradient))[number]
                substitute(place, target, fresh)
                yield top.name, what, ast.fix_missing_locations(mutated)


def substitute(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
                return
            if isinstance(value, list) and any(x is old for x in value):
                setattr(parent, field, [new if x is old else x for x in value])
                return
    raise LookupError(ast.dump(old))


def cases(test: Callable[..., None]) -> Iterator[dict[str, object]]:
    """The keyword arguments of every case of a test with @pytest.mark.parametrize on it."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        axes.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values])
    for choice in itertools.product(*axes):
        yield {name: value for part in choice for name, value in part.items()}


def run_tests(module: str, function: str, tree: ast.Module) -> None:
    """In the child: put the mutant where the module would be and call the tests, without pytest's
    collecting and reporting, which would take longer than the tests. Those that name the function
    come first. Raises what the first failing test raises."""
    import rlhf_edu

    mutant = types.ModuleType(f"rlhf_edu.{module}")
    mutant.__file__ = f"<mutant of {module}>"
    sys.modules[mutant.__name__] = mutant
    setattr(rlhf_edu, module, mutant)
    exec(compile(tree, mutant.__file__, "exec"), mutant.__dict__)
    tests = types.ModuleType(f"test_{module}")
    sys.modules[tests.__name__] = tests
    source = ROOT / "tests" / f"test_{module}.py"
    exec(compile(source.read_text(encoding="utf-8"), str(source), "exec"), tests.__dict__)
    found = [(name, test) for name, test in vars(tests).items() if name.startswith("test_")]
    for _, test in sorted(found, key=lambda pair: function not in pair[0]):
        for arguments in cases(test):
            test(**arguments)


def start(module: str, function: str, tree: ast.Module) -> int:
    """Fork a child that runs the tests on this mutant. → its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        signal.alarm(TIME_LIMIT)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        run_tests(module, function, tree)
        code = 0
    finally:
        os._exit(code)


def warm_up() -> None:
    """Import what every child needs, once; and let hypothesis not polish its counter-examples."""
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    import hypothesis
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch

    import rlhf_edu  # noqa: F401

    torch.set_num_threads(1)
    torch.where(torch.ones(2, device="meta") > 0, 1.0, 0.0).sum()  # loads much of torch
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases)
    hypothesis.settings.load_profile("mutation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--module", choices=MODULES, help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="children at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    options = parser.parse_args()
    modules = [options.module] if options.module else MODULES
    if options.list:
        for module in modules:
            for function, what, _ in mutants(module):
                print(f"{module}.{function}: {what}")
        return 0
    if not hasattr(os, "fork"):
        parser.error("needs os.fork, which this system does not have (Linux and macOS do)")
    warm_up()
    began, survivors, excused, counts = time.time(), [], [], dict.fromkeys(modules, 0)
    running: dict[int, tuple[str, str, str]] = {}

    def finish_one() -> None:
        pid, status = os.wait()
        key = running.pop(pid)
        if os.waitstatus_to_exitcode(status) == 0:
            (excused if key in EQUIVALENT else survivors).append(key)
            if key not in EQUIVALENT:
                print(f"SURVIVED  {key[0]}.{key[1]}: {key[2]}", flush=True)

    for module in modules:
        untouched = ast.parse((ROOT / "rlhf_edu" / f"{module}.py").read_text(encoding="utf-8"))
        run_tests(module, "", untouched)  # they must pass; and now this interpreter is warm
        for function, what, tree in mutants(module):
            while len(running) >= options.jobs:
                finish_one()
            counts[module] += 1
            running[start(module, function, tree)] = (module, function, what)
        while running:
            finish_one()
        print(f"{module}: {counts[module]} mutants, {time.time() - began:.0f} s so far", flush=True)
    stale = [k for k in EQUIVALENT if k[0] in modules and k not in excused]
    for key in stale:
        print(f"STALE     {key}: listed as equivalent, but it is noticed or gone")
    total = sum(counts.values())
    print(
        f"{total} mutants: {total - len(survivors) - len(excused)} noticed, "
        f"{len(excused)} equivalent (reasons in this file), {len(survivors)} survived, "
        f"{time.time() - began:.0f} s"
    )
    return 1 if survivors or stale else 0


if __name__ == "__main__":
    sys.exit(main())
