from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0008_history_is_only_added_to"),
    ]

    operations = [
        # From 20 whole digits to as many as an invoice may have: Postgres takes it without rewriting the table, and what
        # ran before reads and writes it as before.
        migrations.AlterField(
            model_name="approvalrequest",
            name="amount",
            field=models.DecimalField(blank=True, null=True),
        ),
    ]
