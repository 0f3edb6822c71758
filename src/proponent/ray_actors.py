"""Where independent pieces of work run, in actors of Ray: on this machine, or on a cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from proponent.errors import InputError, ProponentError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""How often an actor is started again, and a piece of work given again, after its process or its machine failed."""

_AGAIN = "what is finished is kept: run the same command again"


class Actor:
    """Keeps the work that it was started with, and does it for one item after the other."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def run(self, item: Any) -> Any:
        """Do the work for an item; an actor that was started again may do it twice."""
        return self._work(item)


@dataclass(frozen=True)
class RayActors:
    """One actor per worker; with `gpu`, each has a GPU of its own.

    RAY_ADDRESS names a cluster, whose machines see the same files at the same paths and have the same packages. Without
    it Ray is started on this machine, reachable from here only, and ended with the work.
    """

    workers: int
    gpu: bool = False

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield results as they finish.

        Raises:
            InputError: Ray is not installed or not reachable, it has too few devices, or an actor failed for good.
        """
        ray = _imported()
        started = not ray.is_initialized()
        try:
            if started:
                _connect(ray, self.workers)
            yield from self._results(ray, work, items)
        except ray.exceptions.RayTaskError as error:  # the work's own error, not a failure of Ray
            cause: object = getattr(error, "cause", None)
            if isinstance(cause, ProponentError):
                raise cause from error
            raise
        except ray.exceptions.RayActorError as error:
            raise InputError(
                f"an actor of Ray ended {RETRIES + 1} times: its machine is gone, or its memory ran out; {_AGAIN}, "
                "perhaps with fewer --workers"
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
        actors = [made.remote(shared) for _ in range(needed)]
        running = {actor.run.remote(left.pop()): actor for actor in actors if left}
        while running:
            for reference in ray.wait(list(running), num_returns=1)[0]:
                actor = running.pop(reference)
                result = ray.get(reference)
                if left:
                    running[actor.run.remote(left.pop())] = actor
                yield result


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network unless told not to
    try:
        return import_module("ray")  # its types are partly unknown
    except ImportError as error:
        raise InputError("--engine ray needs the package ray: pip install 'proponent[ray]'") from error


def _connect(ray: Any, workers: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray here."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    ray.init(num_cpus=workers, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
