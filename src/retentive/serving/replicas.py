"""Several replicas through Ray Serve, on one machine or a cluster: any of them answers for any session."""

import signal
import threading
from typing import Any

from retentive.config_types import check_processes
from retentive.extras import require
from retentive.serving.config import ServeConfig

NAME = "retentive"
# Health checks and lists come beside the rows that a replica holds.
BESIDE_ROWS = 100


def deployment(config: ServeConfig, *, cpus_each: float = 1.0) -> Any:
    """The application for Ray Serve, with so many replicas as the config says.

    Args:
        config: Its folders, or its Redis, must be reached from every machine of the cluster.
        cpus_each: CPUs that Ray sets aside for a replica.
    """
    from ray import serve

    class Replica:
        """Holds the application; Ray asks it whether it lives."""

    made: Any = serve.deployment(serve.ingress(lambda: _app(config))(Replica))
    return made.options(
        num_replicas=config.replicas,
        max_ongoing_requests=config.limits.max_rows + config.limits.max_waiting + BESIDE_ROWS,
        ray_actor_options={"num_cpus": cpus_each},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=20,
    ).bind()


def _app(config: ServeConfig) -> Any:
    """The application of one replica, which loads the model."""
    from retentive.serving.app import make_app
    from retentive.serving.service import Service

    return make_app(Service(config))


def begin(config: ServeConfig, *, cpus_each: float | None = None) -> None:
    """Start the replicas and the proxy that people reach; return when they answer.

    Args:
        config: What to serve, and where.
        cpus_each: CPUs that Ray sets aside for a replica; None shares those that there are.
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
    serve.run(deployment(config, cpus_each=cpus_each), name=NAME, route_prefix="/")


def serve_replicas(config: ServeConfig) -> None:
    """Serve through Ray until SIGTERM or Ctrl-C."""
    import ray
    from ray import serve

    ended = threading.Event()
    begin(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    print(
        f"{config.model_name} is served at http://{config.host}:{config.port} by {config.replicas} replicas", flush=True
    )
    ended.wait()
    serve.shutdown()
    ray.shutdown()
