"""Where independent pieces of work run, in actors of Ray: on this machine, or on a cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, cast

from proponent.errors import InputError, ProponentError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""How often an actor is started again, and a piece of work given again, after its process or its machine failed."""

START_SECONDS = 60.0
"""How long the start of actors is waited for; work goes on with those that are there by then."""

_AGAIN = "what is finished is kept: run the same command again"


class Actor:
    """Keeps the work that it was started with, and does it for one item after the other."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def ready(self) -> None:
        """Answer as soon as the process is there."""

    def run(self, item: Any) -> Any:
        """Do the work for an item; an actor that was started again may do it twice."""
        return self._work(item)


@dataclass(frozen=True)
class RayActors:
    """One actor per worker; with `gpu`, each has a GPU of its own.

    RAY_ADDRESS names a cluster, whose machines see the same files at the same paths and have the same packages. Without
    it Ray is started on this machine, listens on 127.0.0.1 only, and ends with the work. If the
    caller has started Ray, that is used.
    """

    workers: int
    gpu: bool = False

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield results as they finish.

        Raises:
            InputError: Ray is not installed or not reachable, it has too few devices, or an actor failed for good.
        """
        ray = imported()
        started = not ray.is_initialized()
        try:
            if started:
                connect(ray, self.workers)
            yield from self._results(ray, work, items)
        except ray.exceptions.RayTaskError as error:  # the work's own error, not a failure of Ray
            cause: object = getattr(error, "cause", None)
            if isinstance(cause, ProponentError):
                raise cause from error
            raise
        except ray.exceptions.RayActorError as error:
            raise InputError(
                f"an actor of Ray ended {RETRIES + 1} times, or could not start: its machine is gone, its memory ran "
                f"out, or it has other packages ({_first_line(error)}); {_AGAIN}, perhaps with fewer --workers"
            ) from error
        except (ray.exceptions.RayError, ConnectionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"Ray cannot be used ({reason}): look at `ray status` and RAY_ADDRESS; {_AGAIN}"
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _results(self, ray: Any, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        kind, needed = ("GPU", self.workers) if self.gpu else ("CPU", min(self.workers, len(items)))
        there = int(ray.cluster_resources().get(kind, 0))
        if there < needed:
            raise InputError(
                f"Ray has {there} {kind}s, and --workers {self.workers} needs {needed}: give fewer workers"
            )
        made = ray.remote(Actor).options(
            num_cpus=1, num_gpus=int(self.gpu), max_restarts=RETRIES, max_task_retries=RETRIES
        )
        shared, left = ray.put(work), list(items)[::-1]
        actors = _started(ray, [made.remote(shared) for _ in range(needed)])
        running = {actor.run.remote(left.pop()): actor for actor in actors if left}
        while running:
            for reference in ray.wait(list(running), num_returns=1)[0]:
                actor = running.pop(reference)
                result = ray.get(reference)
                if left:
                    running[actor.run.remote(left.pop())] = actor
                yield result


def _started(ray: Any, actors: list[Any]) -> list[Any]:
    """The actors that start in time; the others are ended: their devices are busy."""
    asked: dict[Any, Any] = {actor.ready.remote(): actor for actor in actors}
    if not asked:
        return []
    ready, late = cast(
        "tuple[list[Any], list[Any]]", ray.wait(list(asked), num_returns=len(asked), timeout=START_SECONDS)
    )
    ray.get(ready)  # raises why one could not start
    for one in late:
        ray.kill(asked[one])
    if not ready:
        raise InputError(f"no actor of Ray started within {START_SECONDS:g} seconds: its devices are busy; {_AGAIN}")
    return [asked[one] for one in ready]


def imported() -> Any:
    """The package; what it starts on this machine stays on it."""
    defaults = {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray reports its use over the network unless told not to
    if not os.environ.get("RAY_ADDRESS"):
        # read when Ray is imported: else it listens on the address of this machine in place of 127.0.0.1
        defaults["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")  # its types are partly unknown
    except ImportError as error:
        raise InputError("--engine ray needs the package ray: pip install 'proponent[ray]'") from error


def connect(ray: Any, workers: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray here; InputError if that fails."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            here = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init(num_cpus=workers, **here, **quiet)
            _refuse_reachable(ray)
    except (ValueError, RuntimeError) as error:  # such as another version of Ray in the cluster
        raise _unusable(error) from error


def _refuse_reachable(ray: Any) -> None:
    """Refuse a Ray of this machine that others can reach: it was imported before it could be told."""
    address = str(ray.get_runtime_context().gcs_address)
    if not address.startswith(("127.0.0.1:", "[::1]:", "localhost:")):
        ray.shutdown()
        raise InputError(
            f"Ray would be reachable from other machines ({address}), because it was imported before: set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 in the environment, or start Ray yourself (ray.init) first"
        )


def _unusable(error: Exception) -> InputError:
    return InputError(f"Ray cannot be used ({_first_line(error)}): look at `ray status` and RAY_ADDRESS; {_AGAIN}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
