"""What measures the documents' part: parsers, relevance, retrieval."""
