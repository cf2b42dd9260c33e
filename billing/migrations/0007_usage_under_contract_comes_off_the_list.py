from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_entries_post_their_invoice"),
    ]

    operations = [
        migrations.RemoveConstraint(model_name="unbilledusage", name="unbilled_reason_is_known"),
        migrations.RemoveConstraint(
            model_name="unbilledusage", name="only_billed_usage_is_taken_off_the_unbilled_list"
        ),
        migrations.AlterField(
            model_name="unbilledusage",
            name="reason",
            field=models.CharField(
                choices=[
                    ("no_product", "No product takes this usage"),
                    ("no_price", "The product has no price in the price book"),
                    ("ambiguous", "Several products take this usage"),
                    ("no_contract", "The customer has no contract at that time"),
                    ("parked", "The customer was parked"),
                    ("billed_now", "Listed by an earlier run, billed by this one"),
                    ("under_contract", "Listed as without a contract, which there is by now"),
                ],
                max_length=20,
            ),
        ),
        migrations.AddConstraint(
            model_name="unbilledusage",
            constraint=models.CheckConstraint(
                condition=Q(
                    reason__in=[
                        "no_product",
                        "no_price",
                        "ambiguous",
                        "no_contract",
                        "parked",
                        "billed_now",
                        "under_contract",
                    ]
                ),
                name="unbilled_reason_is_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="unbilledusage",
            constraint=models.CheckConstraint(
                condition=Q(reason__in=["billed_now", "under_contract"]) | Q(event_count__gte=0),
                name="only_billed_usage_is_taken_off_the_unbilled_list",
            ),
        ),
    ]
