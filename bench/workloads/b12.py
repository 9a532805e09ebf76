"""B12 late-input: an agent with a long context reads something that comes late.

    from a client's tool    the engine has nothing else to do meanwhile, and can prefill what comes before it
    from another agent      who decodes meanwhile: on the same engine, or on another one where there is one

With the late variable last, all before it can be prefilled ahead; with the variable first, nothing can. Ours
against ours without eager and streamed prefill. The context's prefill takes as long as the wait, where the most can
be hidden (`--context` sets it otherwise). Bounds: the wait hides prefill wholly; on one engine a decoding agent
hides only the fixed part of prefill's steps, as one device does both. Bar: 1.5 with the late variable last, from a
tool, and with `--engines 2` also from another agent.
"""

from __future__ import annotations

import argparse
import itertools

from bench import plot
from bench.bounds import Constants, eager_beside, eager_idle
from bench.compare import Times
from bench.graphs import late_input, tool_input
from bench.modes import OURS
from bench.report import Report, paired
from bench.setup import report_pairs, set_up
from server.config import FEATURES

EAGER = tuple(name for name in ("eager-prefill", "streamed-prefill") if name in FEATURES)
BAR = 1.5
MOST = 3500


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context", type=int, help="tokens; without it, as many as take the time of the wait"
    )
    parser.add_argument("--said", type=int, default=32, help="tokens that come late")
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--engines", type=int, default=1)


def main(argv: list[str]) -> int:
    setup = set_up("B12", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    if not EAGER:
        print("B12 this server has no eager prefill to compare")
        return 1
    context = args.context or balanced_context(args.said, setup.constants)
    wait_ms = args.said * setup.constants.step_ms(1, args.said)
    modes = [OURS, OURS.without(*EAGER), *(mode for mode in setup.modes() if mode is not OURS)]
    with setup.compare(modes, "--engines", str(args.engines)) as comparison:
        for source, last in itertools.product(("tool", "agent"), (True, False)):
            point = f"from={source} late-{'last' if last else 'first'} context={context}"
            if source == "tool":
                size = (context, args.said, wait_ms / 1e3, args.answer)
                runs = setup.runs(point, tool_input, *size, late_last=last)
                bound = eager_idle(setup.constants, context, wait_ms, args.answer)
            else:
                runs = setup.runs(point, late_input, context, args.said, args.answer, late_last=last)
                bound = _across_agents(setup.constants, args, context, wait_ms)
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
            report.add(
                paired(
                    point,
                    ("ours", "without"),
                    times["ours"].means,
                    times["without"].means,
                    bound=bound if last else 1.0,
                    at_least=BAR if last and (source == "tool" or args.engines > 1) else None,
                    more=_waste(times["ours"]),
                )
            )
            others = {name: each for name, each in times.items() if name != "without"}
            report_pairs(report, point, others, against="")
            report.keep(point, {name: each.raw() for name, each in times.items()})
    report.charts.append(_chart(report))
    return report.finish()


def _across_agents(constants: Constants, args: argparse.Namespace, context: int, wait_ms: float) -> float:
    if args.engines > 1:
        return eager_idle(constants, context, wait_ms, args.answer)
    return eager_beside(constants, context, args.said, args.answer)


def _waste(times: Times) -> str:
    """Of the tokens that were prefilled ahead, how many were for nothing."""
    eager, used = (sum(times.counted(f"eager_prefill_tokens{end}")) for end in ("", "_used"))
    return f"eager {eager:.0f} unused {max(0.0, eager - used):.0f}"


def balanced_context(said: int, constants: Constants) -> int:
    """Tokens whose prefill takes as long as somebody speaks who says so many."""
    return min(MOST, max(256, int(said * constants.step_ms(1, said) / constants.p)))


def _chart(report: Report) -> plot.Chart:
    results = [result for result in report.results if result.pair == "ours/without"]
    names = ", ".join(f"{number} {' '.join(r.point.split()[:2])}" for number, r in enumerate(results, 1))
    chart = plot.Chart("B12", names, "without eager prefill / with")
    x = list(range(1, len(results) + 1))
    chart.lines.append(plot.Line("measured", x, [result.ratio for result in results]))
    chart.lines.append(plot.Line("bound", x, [result.bound or 1.0 for result in results], dashed=True))
    return chart
