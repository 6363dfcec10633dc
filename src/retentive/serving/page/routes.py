"""The page's files, with a policy that allows nothing foreign."""

from importlib.resources import files

from fastapi import APIRouter, Response

from retentive.serving.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)

    def file(name: str) -> Response:
        content = (files("retentive.serving.page") / name).read_bytes()
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(content, media_type=f"{_KINDS[name]}; charset=utf-8", headers=headers)

    @routes.get("/")
    def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        return file("index.html")

    @routes.get("/page.css")
    def style() -> Response:  # pyright: ignore[reportUnusedFunction]
        return file("page.css")

    @routes.get("/page.js")
    def script() -> Response:  # pyright: ignore[reportUnusedFunction]
        return file("page.js")

    return routes
