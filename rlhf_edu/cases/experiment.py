"""Running a case: all arms on all seeds, on all cores, then the verdicts and the report.

On the CPU every job runs in a process with one thread, as many at once as there are cores: so the
numbers of a seed do not depend on how many seeds or cores there are. On a GPU the jobs run one
after another in this process.
"""

import heapq
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rlhf_edu import InputError
from rlhf_edu.cases.case import Case, load_case
from rlhf_edu.cases.evidence import (
    MIN_SEEDS,
    Finding,
    Remedy,
    Seed,
    grade,
    read_seed,
    reproduced,
    shown,
    weigh,
    winner_line,
)
from rlhf_edu.cases.stages import Place, Tick, check_cache, prepare, run_arm, run_probe, total_cost
from rlhf_edu.lab import record
from rlhf_edu.lab.machine import available_cores as cores
from rlhf_edu.lab.machine import check_compiler, settle


def run_case(
    name: str,
    seeds: list[int],
    device: str,
    out: Path | None,
    json_file: Path | None,
    fresh: bool,
    resume: bool,
) -> dict[str, Any]:
    """Run a case study and write its folders, report and JSON; returns the JSON's content."""
    device, out = pick_device(device), out or Path("runs") / name
    check_cache()
    check_compiler(device)
    with open_out(out, name, seeds, fresh):
        places = [Place(out, seed, device, fresh, resume) for seed in seeds]
        result = run_places(name, out, places)
        if json_file is not None:
            record.write_json(json_file, result)
    return result


def run_places(name: str, out: Path, places: list[Place]) -> dict[str, Any]:
    """Train, judge and report a case, one seed a place, in an output folder that is open."""
    from rlhf_edu.cases.report import write_report  # it draws, which the workers do not need

    began = time.time()
    case, seeds, device = load_case(name), [place.seed for place in places], places[0].device

    # 1. Train what is not there yet, and say what each seed shows as soon as it is complete.
    recipe = case.recipe
    done: dict[int, Seed] = {}

    def seed_done(seed: int, say: Callable[[str], None]) -> None:
        done[seed] = read_case(case, out, seed)
        say(seed_line(case, done[seed]))

    arms = f"{len(recipe.arms)} arms on " if recipe.arms else ""
    print(
        f"{case.title}: {case.question}\n"
        f"{arms}{len(seeds)} seeds, on {device}; run folders and report go to {out}"
    )
    train_all(name, places, seed_done)

    # 2. Hold every observation against the runs.
    runs = [done[seed] for seed in seeds]
    findings = [grade(observation, runs) for observation in case.observations]
    remedies = [
        weigh(arm, what, case.story, recipe.paid_for(arm), case.regressions, runs)
        for arm, what in case.remedies.items()
    ]
    winner = winner_line(remedies, case.story, case.regressions, runs) if remedies else ""
    result: dict[str, Any] = {
        "name": name,
        "reproduced": reproduced(findings),
        "observations": [as_json(f) for f in findings],
        "remedies": [record.finite(asdict(remedy)) for remedy in remedies],
        "winner": winner,
        "seeds": seeds,
        "device": device,
        "wall_s": round(time.time() - began, 1),
    }

    # 3. Say it, write it down.
    print(verdict_table(findings), *remedy_lines(remedies), *[winner][: len(winner)], sep="\n")
    text = "REPRODUCED" if result["reproduced"] else "NOT REPRODUCED"
    few = f" (a claim needs at least {MIN_SEEDS} seeds)" if len(seeds) < MIN_SEEDS else ""
    print(f"{case.title}: {text}{few}, {result['wall_s']} s")
    environment = record.environment(torch.device(device))
    write_report(out / "report.html", case, runs, findings, remedies, result, environment)
    if case.write is not None:
        case.write(out, runs)
    print(f"report: {out / 'report.html'}")
    record.write_json(out / "result.json", result)
    return result


def read_case(case: Case, out: Path, seed: int) -> Seed:
    """What a case has left of one seed in its output folder."""
    raters_of = {arm: settings.raters for arm, settings in case.recipe.arms.items()}
    return read_seed(out / f"seed-{seed}", seed, raters_of, case.recipe.learners(), case.probes)


def pick_device(device: str) -> str:
    """ "auto" becomes cuda where there is one; InputError for a cuda that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or auto"
        )
    return device


@contextmanager
def open_out(out: Path, name: str, seeds: list[int], fresh: bool) -> Iterator[None]:
    """Hold an output folder that is ours, for this run alone; `fresh` empties it of these seeds.

    Raises InputError if it cannot be made, is foreign, of another case or format, or in use.
    """
    mark, wanted = out / "case.json", {"format": record.FORMAT, "case": name}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if out.is_file() else error.strerror
        raise InputError(
            f"{out} cannot be an output folder ({why}): choose another --out"
        ) from None
    if not mark.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out} holds files that are not of this program: choose another --out")
    with record.alone_in(out):
        if not mark.exists():
            record.write_json(mark, wanted)
        found = record.read_json(mark)
        if not isinstance(found, dict) or found.get("case") != name:
            raise InputError(f"{out} belongs to another case study: choose another --out")
        if found.get("format") != record.FORMAT and not fresh:
            raise InputError(
                f"{out} is of format {found.get('format')}, this version reads {record.FORMAT}: "
                "choose another --out, or make it anew with --fresh"
            )
        if fresh:
            record.write_json(mark, wanted)
            for seed in seeds:
                if (out / f"seed-{seed}").exists():
                    shutil.rmtree(out / f"seed-{seed}")
        yield


# ── Training everything ─────────────────────────────────────────────────────────────────────────
def train_all(name: str, places: list[Place],
              seed_done: Callable[[int, Callable[[str], None]], None]) -> None:
    """All stages of all seeds: earlier seeds first, in each the reward models before the arms."""
    case = load_case(name)
    own = case.probe_seconds if case.probes else 0.0
    total = len(places) * (total_cost(case.recipe) + own)
    shape = "{percentage:3.0f}% |{bar:30}| {elapsed} gone, {remaining} to go"
    with tqdm(total=round(total), bar_format=shape, mininterval=1) as bar:
        done = 0.0

        def tick(seconds: float) -> None:
            nonlocal done
            done = min(done + seconds, total)
            bar.update(int(done) - bar.n)

        if places[0].device == "cpu":
            in_processes(name, places, tick, lambda seed: seed_done(seed, bar.write))
        else:
            for place in places:
                for round_of_jobs in jobs(case):
                    for job in round_of_jobs:
                        work(name, job, place, tick)
                seed_done(place.seed, bar.write)


Job = tuple[str, str]  # what kind of work, and the name of its arm or probe


def jobs(case: Case) -> list[list[Job]]:
    """The work of one seed, in rounds: a round begins when the one before is done."""
    rounds = [[("prepare", "")], [("arm", arm) for arm in case.recipe.arms],
              [("probe", probe) for probe in case.probes]]
    return [each for each in rounds if each]


def work(name: str, job: Job, place: Place, tick: Tick) -> None:
    """One job: a seed's reference and reward models, one of its arms, or one of its probes."""
    case, (kind, which) = load_case(name), job
    if kind == "prepare":
        prepare(case.recipe, place, tick)
    elif kind == "arm":
        run_arm(case.recipe, which, place, tick)
    else:
        run_probe(case.recipe, which, case.probes[which], place, tick)
        tick(case.probe_seconds / len(case.probes))


def due(i: int, turn: int) -> tuple[int, int]:
    """The place in line of a round of seed number i, smaller first: earlier seeds come first.

    A seed's first round comes before the second of the seed ahead of it: else a core would have
    nothing to do while the last seed's reference is made.
    """
    return (i if turn else i - 1), turn


def in_processes(name: str, places: list[Place], tick: Tick,
                 seed_done: Callable[[int], None]) -> None:
    """The jobs in as many processes as there are cores; an error or Ctrl-C ends them all."""
    rounds = jobs(load_case(name))
    context = multiprocessing.get_context("spawn")  # the same on every system
    ticks = context.Queue()
    workers = min(cores(), len(places) * max(map(len, rounds)))

    todo = [(due(i, 0), n, i) for i in range(len(places)) for n in range(len(rounds[0]))]
    heapq.heapify(todo)
    left = [len(rounds[0])] * len(places)  # of the round that a seed is in
    running: dict[Future[None], tuple[int, int]] = {}
    with ProcessPoolExecutor(workers, context, _start_worker, (ticks,)) as pool:
        try:
            while todo or running:
                while todo and len(running) < workers:
                    (_, turn), n, i = heapq.heappop(todo)
                    with _ctrl_c_held():
                        future = pool.submit(_work_here, name, rounds[turn][n], places[i])
                        running[future] = (i, turn)
                ready, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                while not ticks.empty():
                    tick(ticks.get())
                for future in ready:
                    i, turn = running.pop(future)
                    future.result()  # an error of the job becomes ours
                    left[i] -= 1
                    if left[i]:
                        continue
                    if turn + 1 == len(rounds):
                        seed_done(places[i].seed)
                        continue
                    left[i] = len(rounds[turn + 1])
                    for n in range(left[i]):
                        heapq.heappush(todo, (due(i, turn + 1), n, i))
        except BaseException as error:  # what is under way stops now; its folders can be resumed
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    "a worker process was ended from outside, perhaps because memory ran out: "
                    "close other programs and run again with --resume"
                ) from error
            raise


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ctrl-C comes after what is done in here, and a process started in here never hears it.

    Else it could come between the start of a worker and our knowing of it.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone hears Ctrl-C
        yield
        return
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    if sys.platform != "win32":  # a new process has the mask of the one that started it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


_ticks: Any = None  # in a worker: the queue to which its progress goes


def _start_worker(ticks: Any) -> None:
    """One core; Ctrl-C is the parent's business; a worker whose parent has died ends too."""
    global _ticks
    _ticks = ticks
    settle(cores=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work_here(name: str, job: Job, place: Place) -> None:
    work(name, job, place, _ticks.put)


# ── Saying it ───────────────────────────────────────────────────────────────────────────────────
def seed_line(case: Case, seed: Seed) -> str:
    """What one seed shows, in a line."""
    if not case.story:
        return f"seed {seed.seed}: done"
    run = seed.runs[case.story]
    return (
        f"seed {seed.seed}: RM win-probability {run.final['rm/win_probability']:.2f}, "
        f"GOLD {run.reference['gold/total']:.2f} → {run.final['gold/total']:.2f}, "
        f"LEN {run.reference['style/length']:.1f} → {run.final['style/length']:.1f}, "
        f"KLREF 0 → {run.final['kl/exact']:.1f}"
    )


def verdict_table(findings: list[Finding]) -> str:
    """Each observation with value, interval, worst seed and verdict."""


    def n(number: float) -> str:
        return shown(number, ".3f")

    lines = [f"{'value':>8} {'95 % interval':>20} {'median':>8} {'worst':>8}   observation"]
    for f in findings:
        lines.append(
            f"{n(f.value):>8} [{n(f.low):>8}, {n(f.high):>8}] {n(f.median):>8} {n(f.worst):>8}   "
            f"{f.verdict:14} {f.claim}" + (f" (paper: {f.paper})" if f.paper else "")
        )
    return "\n".join(lines)


def remedy_lines(remedies: list[Remedy]) -> list[str]:
    """What each change keeps and removes, a line each, with the honest control."""

    def n(number: float) -> str:
        return shown(number, "+.2f")

    return [
        f"{r.arm}: keeps {shown(100 * r.reward_kept[0], '.0f')} % of the reward gain, removes "
        + ", ".join(f"{shown(100 * share[0], '.0f')} % of {k}" for k, share in r.removed.items())
        + f"; KLREF {r.kl:.1f}; GOLD minus that of the story stopped early at this KLREF: "
        f"{n(r.beyond_stopping[0])} [{n(r.beyond_stopping[1])}, {n(r.beyond_stopping[2])}]; "
        f"{r.labels:,.0f} labels, {r.replies:,.0f} replies for them"
        for r in remedies
    ]


def as_json(f: Finding) -> dict[str, Any]:
    """A finding as the command's JSON has it; numbers that do not exist are null."""
    numbers = {"value": f.value, "low": f.low, "high": f.high, "median": f.median, "worst": f.worst}
    return {
        "id": f.id,
        "claim": f.claim,
        **record.finite(numbers),
        "threshold": f.threshold,
        "holds": f.holds,
        "graded": f.graded,
        "paper": f.paper,
        "per_seed": record.finite(f.values),
    }
