"""The online store: one packed row a user, in SQLite or Redis. Only `feast_plugin` here knows Feast."""
