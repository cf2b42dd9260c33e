"""Django's Postgres, from version 15 on."""
