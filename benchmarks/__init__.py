"""How fast a service is. Knows it over HTTP only, as any client does."""
