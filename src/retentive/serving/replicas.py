"""Several replicas through Ray Serve, on one machine or a cluster: any of them answers for any session."""

import signal
import threading
from contextlib import closing
from typing import Any

from retentive.config_types import check_processes
from retentive.extras import require
from retentive.serving.config import ServeConfig
from retentive.serving.running import EVERYBODY, FINISH_SECONDS, STORE_SECONDS
from retentive.serving.sessions.opening import open_place
from retentive.serving.sessions.record import new_id

NAME = "retentive"
# Health checks and lists come beside the rows that a replica holds.
BESIDE_ROWS = 100


def deployment(config: ServeConfig, *, cpus_each: float = 1.0, ending: str | None = None) -> Any:
    """The application for Ray Serve, with so many replicas as the config says.

    Args:
        config: Its folders, or its Redis, must be reached from every machine of the cluster.
        cpus_each: CPUs that Ray sets aside for a replica.
        ending: Word in the place of stored states with which answers end with what they have; None for none.
    """
    from ray import serve

    class Replica:
        """Holds the application; Ray asks it whether it lives."""

    made: Any = serve.deployment(serve.ingress(lambda: _app(config, ending))(Replica))
    return made.options(
        num_replicas=config.replicas,
        max_ongoing_requests=config.limits.max_rows + config.limits.max_waiting + BESIDE_ROWS,
        ray_actor_options={"num_cpus": cpus_each},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=FINISH_SECONDS + STORE_SECONDS,
    ).bind()


def _app(config: ServeConfig, ending: str | None) -> Any:
    """The application of one replica, which loads the model."""
    from retentive.serving.app import make_app
    from retentive.serving.service import Service

    service = Service(config)
    service.ending_word = ending
    return make_app(service)


def begin(config: ServeConfig, *, cpus_each: float | None = None, ending: str | None = None) -> None:
    """Start the replicas and the proxy that people reach; return when they answer.

    Args:
        config: What to serve, and where.
        cpus_each: CPUs that Ray sets aside for a replica; None shares those that there are.
        ending: See `deployment`.
    """
    require("ray", "a number of replicas above 1")
    import ray
    from ray import serve

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    cores = ray.cluster_resources().get("CPU", 1.0)
    check_processes("replicas", config.replicas, max(1, int(cores)))
    if cpus_each is None:
        cpus_each = min(1.0, cores / (config.replicas + 1))
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(deployment(config, cpus_each=cpus_each, ending=ending), name=NAME, route_prefix="/")


def serve_replicas(config: ServeConfig) -> None:
    """Serve through Ray until SIGTERM or Ctrl-C; answers then have as long as those of one process."""
    import ray
    from ray import serve

    ended, ending = threading.Event(), new_id("ending")
    begin(config, ending=ending)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    print(
        f"{config.model_name} is served at http://{config.host}:{config.port} by {config.replicas} replicas", flush=True
    )
    ended.wait()
    late = threading.Timer(FINISH_SECONDS, _ask_to_end, (config, ending))
    late.start()
    serve.delete(NAME)  # takes no more requests, and waits for answers; shutdown alone would cut them off
    late.cancel()
    serve.shutdown()
    ray.shutdown()


def _ask_to_end(config: ServeConfig, ending: str) -> None:
    """Leave word for all replicas that answers shall end with what they have."""
    with closing(open_place(config.sessions_place)) as place:
        place.ask_to_end(EVERYBODY, ending)
