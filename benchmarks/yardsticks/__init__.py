"""Other people's packages that the library is measured against, each in a virtual environment of its own."""
