"""The commands `netwright export` and `netwright predict`, thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netwright.console import print_json, say
from netwright.options import JsonOpt, written


def export(
    study: Annotated[
        str,
        typer.Argument(
            help="A study that was trained, or a network folder.", metavar="STUDY|NETWORK"
        ),
    ],
    target: Annotated[
        Path | None, written("FOLDER", "The network's own by default.", "--out")
    ] = None,
    optuna: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Instead: write the study into an Optuna storage."),
    ] = None,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Leave the ONNX form out.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Write the trained network as safetensors + JSON, plain PyTorch, torch.export and ONNX."""
    if optuna is not None:
        say(to_optuna(study, optuna))
        return
    from netwright.exporting import export_network, find_inputs
    from netwright.network import find_network

    source = find_network(study)
    inputs = find_inputs(study, source)
    written = export_network(source, target or source, inputs, onnx=not no_onnx)
    if as_json:
        print_json(written)
        return
    for kind, line in written.items():
        say(f"{kind:<14} {line}")


def predict(
    network: Annotated[
        str,
        typer.Argument(
            help="A network folder, or a study that was trained.", metavar="STUDY|NETWORK"
        ),
    ],
    data: Annotated[Path, typer.Argument(help="An image or a text, or a folder of them.")],
    as_json: JsonOpt = False,
) -> None:
    """Use a trained network: name the class of each image, or score each text."""
    from netwright.network import find_network, load_network

    trained = load_network(find_network(network))
    rows = trained.predict(data)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(trained.say(row))


def to_optuna(study: str | Path, url: str) -> str:
    """Write a study into an Optuna storage under its own name; return what was done."""
    from contextlib import closing

    from netwright.integrations.optuna import export_study  # says what is missing
    from netwright.journal.database import hidden
    from netwright.workspace import Workspace

    place = Workspace(study)
    name = place.config().name
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with closing(place.store()) as store:
        export_study(store, url, name)
    said = hidden(url)
    return f"written: study {name} at {said}; open it with optuna-dashboard {said}"
