"""Replicas: several processes of this service that hold models, asked as one provider."""
