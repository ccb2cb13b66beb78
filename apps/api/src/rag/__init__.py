"""Documents over HTTP: how uploads are read, and what the bodies and answers of /rag look like."""
