"""Messages out of quarantine, tried again because somebody has asked for it."""

import time
from contextlib import ExitStack
from typing import Final

import structlog

from azaion import failpoints, files
from azaion.annotations.errors import AnnotationError
from azaion.annotations.quarantine import Quarantined
from azaion.annotations.store import AnnotationStore
from azaion.layout import Layout

#: The stream, a snapshot, and whoever asks us to stop, wait no longer than this and one message more.
_ROUND_S: Final = 1.0

_log = structlog.get_logger("azaion.annotations")


def retry_marked(store: AnnotationStore, layout: Layout) -> list[tuple[str, str | None]]:
    """Try the messages again that somebody has asked for; call it again and again, and from one thread at a time.

    Whatever is killed in between is taken up by the next call, and ends in the same tree. Returns at once while a group
    or a snapshot is taken, and after a second at the latest with what has been done by then.

    Returns:
        The messages whose try has ended, and why they still cannot be applied (None: they were applied).

    Raises:
        OSError: the quarantine cannot be listed.
    """
    done: list[tuple[str, str | None]] = []
    if not (waiting := store.quarantine.marked()):
        return done
    with ExitStack() as held:
        try:
            held.enter_context(files.locked(layout.commit_lock, wait=False))
        except BlockingIOError:
            return done
        deadline = time.monotonic() + _ROUND_S
        for name in waiting:
            try:
                with store.quarantine.claimed(name) as entry:
                    if entry is not None:
                        done.append((name, _retry(store, entry)))
            except OSError as error:
                # It may be applied in part, so the request stands until a later round has done all of it.
                _log.error("cannot retry; trying again", message=name, error=str(error))
            if time.monotonic() > deadline:
                break
    return done


def _retry(store: AnnotationStore, entry: Quarantined) -> str | None:
    try:
        message = store.quarantine.read(entry)
        problem = store.retry(message, -1 if entry.incarnation is None else entry.incarnation)
    except AnnotationError as error:
        problem = str(error)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever comes
        # One message must not end the consumer again and again.
        _log.exception("a message cannot be retried", message=entry.id)
        problem = f"a defect of ours, see consumer.log: {type(error).__name__}: {error}"[:500]
    if problem is None:
        failpoints.hit("quarantine.retry.applied")
        store.quarantine.remove(entry.id)
    else:
        store.quarantine.failed(entry.id, problem)
    return problem
