"""The training command: `python -m trainer.main [flags]`; with no flags, the `digits` recipe.

Flags are parsed and checked before TensorFlow is imported, so that a wrong command fails at once, with code 2 and one
line. `--help` lists every flag with its default.
"""
from trainer import signals

if __name__ == "__main__":
    signals.install()  # before the slow imports: from the first line on, a signal ends the run as it should

import contextlib
import os
import sys

from input_pipeline import bucket, command_line
from input_pipeline.rules import NotYet
from trainer import config, flags, quiet, resolve, transfer


def main(argv: list[str]) -> int:
    """Trains as `argv` says. Returns the exit code: 0, 2, 3, 130 or 143."""
    if any(argument in command_line.HELP for argument in argv[1:]):
        print(flags.help_text())
        return 0
    try:
        run = resolve.resolve(flags.parse(argv))
        get_data(run)
        if run.config.fast_dev_run:
            from trainer import fast_dev_run
            return fast_dev_run.run(run, argv)
        quiet.import_tensorflow(errors=run.plan.kind == "GPU", local_tpu=run.plan.tpu == "local")
        from trainer import train
        return train.run(run)
    except config.UserError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code  # 3 where the values to save were not finite


def get_data(run: resolve.Run) -> None:
    """Downloads the data set and first weights if the command asks for it and they are not there. UserError if that fails."""
    options = run.config
    if not options.download or options.dry_run or bucket.is_address(options.data_dir):  # there they are already
        return
    from input_pipeline import augment, datasets, download
    try:
        if options.dataset in download.ARCHIVES:
            download.fetch(options.dataset, options.data_dir)
            datasets.describe(options.dataset, options.data_dir)
        if not options.init_from and not resolve.has_checkpoint(options.model_dir):  # it begins with them
            transfer.fetch(options, augment.check(options.augment, run.info.input_shape))
    except ConnectionError as error:  # the server may answer later
        raise NotYet(f"--download: {error}") from None
    except (ValueError, OSError) as error:
        raise config.UserError(f"--download: {error}") from None


if __name__ == "__main__":
    code = main(sys.argv)
    with contextlib.suppress(BrokenPipeError):  # main ... | head
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # TensorFlow's threads need no goodbye, and may take seconds over one
