"""The `lorax` command. Rooms are imported inside the commands, so that `lorax --help` answers at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lorax import environment
from lorax.addresses import unproxied
from lorax.commands.atlas import atlas_commands
from lorax.commands.console import Commands, Json, Preset, err, here, opened, out, print_json
from lorax.commands.serve import serve_commands
from lorax.commands.verdicts import verdict_commands
from lorax.commands.versions import version_commands

app = typer.Typer(
    cls=Commands,
    name="lorax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Keep a detector of synthetic images up to date: each new generator that lands is learned, none is forgotten.",
)


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")] = False,
) -> None:
    """Options before the command."""
    environment.complete()
    # Threads that wait by spinning starve each other as soon as anything else, such as the servers, wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(unproxied())
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The folder to make a workspace of.")],
    preset: Annotated[
        str | None, typer.Option(help="Begin with the values of this preset, as in --preset paper.")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="Where DVC pushes landed data: a folder, or s3://... .")] = None,
    prefect_port: Annotated[int | None, typer.Option(help="The embedded Prefect server's port.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="The embedded MLflow server's port.")] = None,
) -> None:
    """Make a workspace: a folder with its own git and DVC repository and params.yaml.

    Example: `lorax init detector --remote /mnt/backup/detector`
    """
    from lorax.commands.init import initialize

    place = remote if remote is None or "://" in remote else str(Path(remote).resolve())
    workspace = initialize(directory, preset=preset, remote=place, prefect_port=prefect_port, mlflow_port=mlflow_port)
    out.print(f"workspace ready: {workspace.root}\nNext: cd there, then 'lorax land PATH --task NAME'.", markup=False)


@app.command()
def simulate(
    directory: Annotated[Path, typer.Argument(help="A new or empty folder, outside any workspace's data/.")],
) -> None:
    """Write the mini-CDDB: five tasks of simulated generators, the same bytes on every machine.

    Example: `lorax simulate /tmp/mini-cddb`
    """
    from lorax import progress
    from lorax.data.simulate import simulate as write

    with progress.counting(err) as shown:
        names = write(directory, progress=shown)
    for name in names:
        out.print(f"{directory / name}", markup=False)


@app.command()
def land(
    path: Annotated[
        Path | None, typer.Argument(help="One task's folder: train/ and val/ with 0_real, 1_fake or 1_NAME, ...")
    ] = None,
    task: Annotated[str, typer.Option(help="The task's name: lower-case letters, digits, '_' and '-'.")] = "",
    watch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A drop folder: DIR/NAME lands once it holds _READY; until Ctrl-C."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; exit code 1 if refused.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of what landed under this name.")] = False,
    accept_leak: Annotated[
        str,
        typer.Option(metavar="WHY", help="Land although formats tell real from synthetic; kept with the task."),
    ] = "",
    split: Annotated[float | None, typer.Option(help="For data without val/: the share that goes to train/.")] = None,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc, and push where a remote is set.")] = True,
    as_json: Json = False,
) -> None:
    """Check a new data set, copy it to data/NAME, and pin it with DVC and git. Nothing changes on any error.

    All that is wrong is told at once. Example: `lorax land ~/downloads/gaugan --task gaugan`
    """
    from lorax.commands import land
    from lorax.data.admission import LandingOptions

    options = LandingOptions(split=split, replace=replace, accept_leak=accept_leak)
    if watch is not None:
        if path or task or dry_run or accept_leak:
            raise typer.BadParameter("--watch goes without PATH, --task, --dry-run and --accept-leak")
        land.watch(here(), watch, options, out, err, commit=commit, as_json=as_json)
        return
    if path is None or not task:
        raise typer.BadParameter("expected PATH and --task NAME, or --watch DIR")
    if dry_run:
        record = land.try_out(here(), path, task, options, None if as_json else out, err)
    else:
        record = land.land_one(here(), path, task, options, None if as_json else out, err, commit=commit)
    if as_json:
        print_json(record)
    if record["error"]:
        err.print(f"lorax: error: {record['error']}", markup=False)
        raise typer.Exit(1)


@app.command()
def learn(preset: Preset = None, as_json: Json = False) -> None:
    """Learn every landed task that the champion does not know, one episode each, in landing order.

    Interrupted at any point, the next `lorax learn` continues there. What the gate refused is told at the end; the exit
    code is 0 all the same. Example: `lorax learn`
    """
    from lorax.commands import learn

    record = learn.learn(*opened(preset), preset, err)
    if as_json:
        print_json(record)
    else:
        learn.print_outcomes(record, out)


@app.command()
def scenario(
    name: Annotated[str, typer.Argument(help="landed (all there is), or easy, hard, long (by CDDB's folder names).")],
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Learn a whole scenario from scratch with today's params.yaml; registry and champion stay as they are.

    Writes metrics, matrix and plots to work/scenario/, and a run to MLflow. Example: `lorax scenario landed`
    """
    from lorax import reconcile
    from lorax.commands import running, tables

    workspace, params = opened(preset)
    reconcile.scenario_tasks(workspace, name)
    running.serve(workspace, params, err)
    result = running.scenario(workspace, name, preset, err)
    if as_json:
        print_json(result)
    else:
        tables.print_table(tables.accuracy_matrix(result["tasks"], result["rows"]), out)
        tables.print_metrics(result["metrics"], out)


@app.command()
def status(as_json: Json = False) -> None:
    """Show the champion, what is known, waiting, held, changed or broken, the data revision, and the servers.

    It shows what it can, with exit code 0, where the registry does not answer. Example: `lorax status --json`
    """
    from lorax.commands import status as workspace_status

    record = workspace_status.record(*opened())
    if as_json:
        print_json(record)
    else:
        workspace_status.print_status(record, out)


app.add_typer(version_commands)
app.add_typer(serve_commands)
app.add_typer(verdict_commands)
app.add_typer(atlas_commands, name="atlas", help="Compare LoRA adapters by their weights: search, cluster, draw a map.")


@app.command()
def up(
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Without: servers only, for workers elsewhere.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Start this workspace's servers and a worker that learns what lands; fine when they run already.

    Addresses of servers that run elsewhere come from PREFECT_API_URL and MLFLOW_TRACKING_URI. Example: `lorax up`
    """
    from lorax.commands import running, tables

    found = running.up(*opened(), err, with_worker=worker)
    if as_json:
        print_json({"prefect": found.prefect.address, "mlflow": found.mlflow.address})
    else:
        tables.print_pages(found, out)


@app.command()
def down() -> None:
    """Stop this workspace's servers and worker, with all that learns just now, by hand too; fine when none runs."""
    from lorax.commands import running

    for pid in running.down(here(), err):
        out.print(f"process {pid}, which learned here, was stopped; the same command goes on where it was.")
    out.print("servers and worker are down.")


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="The demo's own workspace.")] = Path("work/demo"),
    prefect_port: Annotated[int | None, typer.Option(help="The Prefect server's port, at the first run.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="The MLflow server's port, at the first run.")] = None,
) -> None:
    """Watch five simulated generators land one by one, each learned in an episode of its own.

    Example: `lorax demo`
    """
    from lorax.commands import demo as recipe

    recipe.run(directory, prefect_port, mlflow_port, out, err)
