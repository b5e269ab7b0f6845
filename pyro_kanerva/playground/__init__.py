"""A web page on which anyone writes, recalls and erases patterns with a trained machine."""

from pyro_kanerva.playground.page import build_page, write_page

__all__ = ["build_page", "write_page"]
