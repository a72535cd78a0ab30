"""The embedded servers, kept alive by supervisord, and what runs beside them."""
