"""The section on what the controller learned, told as what the study's controller does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netwright.report import plots, policy
from netwright.report.html import escape, figure, section
from netwright.report.plots import Snapshots
from netwright.space import SearchSpace

TITLE = "What the controller learned"
POLICY = "A policy proposes every child: what it draws is trained. It is taught by their rewards."
GUIDED = (
    "A value model, taught by the ranks of past rewards, picks each child among candidates. "
    "What is shown is the policy, {part}; it is taught by imitating past trials, the better the "
    "more. Other candidates are mutations of the best trials and designs from the whole space. The "
    "first children, and some probes, are drawn at random; so no chart tells how often an option "
    "was trained."
)
SOURCE = "which is one source of these candidates"
UNUSED = "which gives no candidates in this study (controller.guided.sampled is 0)"
SHARES = {
    "evolution": "Evolution has no policy. What is shown are the shares of the options in its "
    "population, from which the parents of new children are taken; uniform ones before there "
    "is a population.",
    "local_search": "Local search has no policy. What is shown are the shares of the options among "
    "a sample of the neighbours of the architecture where it stands, of which it proposes; uniform "
    "ones while it stands nowhere.",
    "tpe": "TPE has no policy. What is shown are the shares of the options in the best tenth of "
    "the trials told (25 at most), by which it models good architectures; uniform ones before it "
    "models any.",
    "random": "Random search learns nothing: it draws uniformly all along.",
}


@dataclass(frozen=True)
class _Words:
    """What the charts are of: a policy's probabilities, or shares."""

    about: str
    what: str = "Probability"
    options: str = (
        "Each box stacks the probabilities of the options; the more of a colour, the more often "
        "the policy draws the option."
    )
    many: str = "A row is an option: the darker, the more often the policy draws it."
    links: str = "How likely the policy is to let each layer take each earlier one."
    entropy: str = ""


def _words(controller: Mapping[str, Any]) -> _Words:
    name = str(controller.get("name", ""))
    if name in SHARES:
        return _Words(
            about=SHARES[name],
            what="Share",
            options="Each box stacks the shares of the options.",
            many="A row is an option: the darker, the larger its share.",
            links="The share in which each layer takes each earlier one.",
        )
    surer = "The lower, the surer the policy of its choices"
    if name != "guided":
        return _Words(about=POLICY if name else "", entropy=f"{surer}.")
    own = controller.get("guided")
    unused = isinstance(own, Mapping) and own.get("sampled") == 0
    return _Words(
        about=GUIDED.format(part=UNUSED if unused else SOURCE),
        entropy=f"{surer}; it says nothing of how sure the value model is.",
    )


def learned_section(space: SearchSpace, snapshots: Snapshots, controller: Mapping[str, Any]) -> str:
    """Return the section.

    controller: the section of that name of the configuration; of an empty one it is said only that
    there is a policy.
    """
    if not snapshots:
        return section(TITLE, '<p class="note">There is no record of what it would draw.</p>')
    words = _words(controller)
    charts = policy.options(space, snapshots, words.what)
    many = policy.many_options(space, snapshots, words.what)
    heat = policy.connections(space, snapshots, words.what)
    parts = [f"<p>{escape(words.about)}</p>"] if words.about else []
    if words.entropy:
        parts += [
            "<h3>Entropy of the policy</h3>",
            figure(plots.entropy(snapshots), words.entropy),
        ]
    if charts or many:
        parts.append("<h3>Options</h3>")
    parts += [figure(chart) for chart in charts[:-1]]
    parts += [figure(chart, words.options) for chart in charts[-1:]]
    if many:
        parts.append(figure(many, words.many))
    if heat:
        parts += ["<h3>Connections</h3>", figure(heat, words.links)]
    return section(TITLE, *parts)
