"""The journal's tables, and trials as their rows.

`events` gives the order in which things happened, `trials` what was proposed, `results` how each
ended; a trial without a result is still to be run. Rows of these are only ever added. `lease` says
who runs the search; `checkpoints` is a cache of the controller, which replaying gives as well.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from netwright.space import SearchSpace
from netwright.trial import Evaluation, Trial, TrialState

FORMAT = 2
STOPPING = 3  # where trials may be stopped early; otherwise as 2
FORMATS = (FORMAT, STOPPING)

metadata = sa.MetaData()
header = sa.Table(
    "header",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)
trials = sa.Table(
    "trials",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("batch", sa.Integer, nullable=False),
    sa.Column("canonical", sa.String(32), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("log_prob", sa.Double),
    sa.Column("given", sa.Text, nullable=False),
    sa.Column("choices", sa.Text, nullable=False),
)
results = sa.Table(
    "results",
    metadata,
    sa.Column("number", sa.ForeignKey("trials.number"), primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reward", sa.Double, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("duplicate_of", sa.Integer),
    sa.Column("finished", sa.Double, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),
    sa.Column("evaluation", sa.Text),
)
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),
    sa.Column("progress", sa.Text, nullable=False),
)

# when a trial's training began, once it has ended; before that its row has when it was proposed
BEGIN = (
    trials.update().where(trials.c.number == sa.bindparam("of")).values(started=sa.bindparam("at"))
)


def event_row(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's row, of now."""
    return {"kind": kind, "payload": json.dumps(dict(payload)), "time": time.time()}


def trial_row(trial: Trial, canonical: str) -> dict[str, Any]:
    """Return the row of what was proposed."""
    return {
        "number": trial.number,
        "batch": trial.batch,
        "canonical": canonical,
        "choices": trial.architecture.to_json(),
        "given": json.dumps(dict(trial.given)),
        "seed": trial.seed,
        "started": trial.started,
        "log_prob": trial.log_prob,
    }


def result_row(trial: Trial, told: bool) -> dict[str, Any]:
    """Return the row of how a trial ended; told: the controller with it, not with its batch."""
    return {
        "number": trial.number,
        "state": str(trial.state),
        "reward": trial.reward,
        "failure": trial.failure,
        "duplicate_of": trial.duplicate_of,
        "finished": trial.finished,
        "told": told,
        "evaluation": _dump(trial.evaluation),
    }


def _dump(evaluation: Evaluation | None) -> str | None:
    if evaluation is None:
        return None
    curve = [value if math.isfinite(value) else None for value in evaluation.curve]
    return json.dumps(
        {
            "reward": evaluation.reward,
            "score": evaluation.score,
            "curve": curve,
            "cost": evaluation.cost,
            "parameters": evaluation.parameters,
            "details": dict(evaluation.details),
        }
    )


def _load(text: str | None) -> Evaluation | None:
    if text is None:
        return None
    data = json.loads(text)
    data["curve"] = tuple(math.nan if value is None else value for value in data["curve"])
    return Evaluation(**data)


def whole_trials() -> sa.Select[Any]:
    """Return the query whose rows `trial_of` takes, by number."""
    columns = [c for c in results.c if c.name not in ("number", "told")]
    joined = trials.outerjoin(results, trials.c.number == results.c.number)
    return sa.select(*trials.c, *columns).select_from(joined).order_by(trials.c.number)


def trial_of(row: Any, space: SearchSpace) -> Trial:
    """Return the trial of a row of `whole_trials`; raises where it does not fit the space."""
    return Trial(
        number=row.number,
        batch=row.batch,
        architecture=space.architecture(json.loads(row.choices), f"trial {row.number}"),
        seed=row.seed,
        given=json.loads(row.given),
        log_prob=row.log_prob,
        started=row.started,
        state=TrialState.RUNNING if row.state is None else TrialState(row.state),
        evaluation=_load(row.evaluation),
        reward=row.reward,
        failure=row.failure,
        duplicate_of=row.duplicate_of,
        finished=row.finished,
    )
