"""What all tests share: marked secrets, and the search for them in everything that the service writes (`watch.py`)."""
