"""A model behind an API that people's tools already speak, with sessions that cost the new tokens alone.

Nothing here is imported otherwise: the parts stand on FastAPI and uvicorn (extra ``serve``).
"""
