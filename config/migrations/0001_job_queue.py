"""The functions of the message queue, in the schema `pgmq`, from the package of the same name."""

from django.db import migrations
from pgmq.install import get_embedded_install_sql


class Migration(migrations.Migration):
    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        migrations.RunSQL(get_embedded_install_sql(), reverse_sql="DROP SCHEMA IF EXISTS pgmq CASCADE"),
    ]
