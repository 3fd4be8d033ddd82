"""Several things at the same time."""

import threading
from collections.abc import Callable, Sequence


def in_threads(runs: Sequence[Callable[[], object]]) -> None:
    """Runs each in a thread of its own, all at the same time; raises what the first that failed raised."""
    errors: list[BaseException] = []

    def guarded(run: Callable[[], object]) -> None:
        try:
            run()
        except BaseException as error:  # of another thread: raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
