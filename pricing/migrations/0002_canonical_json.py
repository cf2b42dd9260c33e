"""The canonical JSON that approvals hash, in SQL, so that a query can tell whether a version holds what was approved."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("pricing", "0001_initial")]

    operations: ClassVar = [
        migrations.RunSQL(
            # Byte for byte what accounts.canonical writes for text, whole numbers, true, false and null.
            sql="""
                CREATE FUNCTION canonical_json(value jsonb) RETURNS text
                LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
                BEGIN
                    RETURN CASE jsonb_typeof(value)
                        WHEN 'object' THEN (
                            SELECT '{' || coalesce(string_agg(
                                to_json(member.key)::text || ':' || canonical_json(member.value), ','
                                ORDER BY member.key COLLATE "C"
                            ), '') || '}'
                            FROM jsonb_each(value) member
                        )
                        WHEN 'array' THEN (
                            SELECT '[' || coalesce(string_agg(
                                canonical_json(item.value), ',' ORDER BY item.position
                            ), '') || ']'
                            FROM jsonb_array_elements(value) WITH ORDINALITY item (value, position)
                        )
                        ELSE value::text
                    END;
                END
                $$;
            """,
            reverse_sql="DROP FUNCTION canonical_json(jsonb)",
        ),
    ]
