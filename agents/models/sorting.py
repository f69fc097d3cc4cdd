"""Expressions to sort rows by, which are never null and can be in an index.

Their constants are written into the SQL: an index is not recognised behind a parameter.
"""

from typing import Any

from django.db.models import FloatField, Func


class OrZero(Func):
    """A number, or 0 where there is none."""

    template = "COALESCE(%(expressions)s, 0)"
    arity = 1


class Seconds(Func):
    """From the second moment to the first, or 0 where one of them is missing."""

    arity = 2
    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **options: Any) -> Any:
        """By days, which is what SQLite counts in."""
        template = "COALESCE((julianday(%(expressions)s)) * 86400, 0)"
        return self.as_sql(
            compiler, connection, template=template, arg_joiner=") - julianday(", **options
        )  # fmt: skip

    def as_postgresql(self, compiler: Any, connection: Any, **options: Any) -> Any:
        """By an interval."""
        template = "COALESCE(EXTRACT(EPOCH FROM (%(expressions)s))::double precision, 0)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **options)
