"""The command line: gan-jax list, train, sample, evaluate, diagnose, adapt, plan, launch.

Exit codes: 0 done; 2 the input is wrong (one line says how, and nothing was written); 3 stopped by
an alarm; 4 the environment failed; 75 interrupted, resume with the same command and --resume.
"""

import sys
from collections.abc import Callable, Sequence

import tyro

from gan_jax.cli import adapting, launching, models, planning, process
from gan_jax.cli.training import train
from gan_jax.cli.words import Adapt, Diagnose, Evaluate, Launch, List, Plan, Sample, Train, parse
from gan_jax.training import lookup


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        with process.preparing():
            command = _command(sys.argv[1:] if argv is None else list(argv))
        return command()
    except SystemExit as end:  # tyro has shown the help, or an experiment's file ends itself
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except process.WrongInput as error:
        process.say(f"error: {error}")
        return 2
    except OSError as error:
        process.say(f"error: {error}")
        return 4
    except KeyboardInterrupt:  # before training, or a second one during it
        process.say("interrupted")
        return 75


def _command(argv: list[str]) -> Callable[[], int]:
    """What is to be done."""
    commands = {
        "list": List,
        "train": Train,
        "sample": Sample,
        "evaluate": Evaluate,
        "diagnose": Diagnose,
        "adapt": Adapt,
        "plan": Plan,
        "launch": Launch,
    }
    after: list[str] = []
    if argv[:1] in (["plan"], ["launch"]) and "--" in argv:  # what follows is the experiment's, or gan-jax train's
        cut = argv.index("--")
        argv, after = argv[:cut], argv[cut + 1 :]
    match argv:
        case ["train", name, *words] if not name.startswith("-"):
            # Its fields are known only now, so it has a parser of its own.
            return lambda: train(name, words)
        case ["train", word, *_] if word not in ("-h", "--help"):
            raise ValueError(f"{word} where the EXPERIMENT comes first: gan-jax train EXPERIMENT [options]")
        case [word, *_] if not word.startswith("-") and word not in commands:
            raise lookup.unknown("command", word, commands)
    parser = tyro.extras.subcommand_cli_from_dict
    description = "Train and judge generative adversarial networks."
    match parse(parser, argv, subcommands=commands, prog="gan-jax", description=description):
        case Sample() as command:
            return lambda: models.sample(command)
        case Evaluate() as command:
            return lambda: models.evaluate(command)
        case Diagnose() as command:
            return lambda: models.diagnose(command)
        case Adapt() as command:
            return lambda: adapting.adapt(command)
        case Plan() as command:
            return lambda: planning.plan(command, after)
        case Launch() as command:
            return lambda: launching.launch(command, after)
    return _list


def _list() -> int:
    for experiment in lookup.catalogue():
        summary = lookup.summary(experiment)
        print(f"{experiment.name}: {summary.what}")
        for name, value in zip(summary._fields[1:], summary[1:], strict=True):
            if value:
                print(f"    {name}: {value}")
    return 0
