"""The database: tables, transactions, clock, migrations. The only code in which SQLite and PostgreSQL differ."""
