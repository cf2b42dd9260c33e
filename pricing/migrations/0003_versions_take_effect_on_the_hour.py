"""Usage is added up by the hour, so prices change on the hour."""

from typing import ClassVar

from django.db import migrations, models
from django.db.models.lookups import Exact


class Migration(migrations.Migration):
    dependencies: ClassVar = [("pricing", "0002_canonical_json")]

    operations: ClassVar = [
        migrations.AddConstraint(
            model_name="pricebookversion",
            constraint=models.CheckConstraint(
                condition=Exact(
                    models.Func(
                        models.F("effective_from"),
                        output_field=models.IntegerField(),
                        template="mod(extract(epoch FROM %(expressions)s), 3600)",
                    ),
                    0,
                ),
                name="version_takes_effect_on_the_hour",
            ),
        ),
    ]
