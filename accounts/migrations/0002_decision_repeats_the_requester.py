"""Hold a decision's copy of the requester equal to the request's own, so that the CHECK on it means what it says."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("accounts", "0001_initial")]

    operations: ClassVar = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE accounts_approvaldecision
                ADD CONSTRAINT approval_decision_repeats_the_requester_of_its_request
                FOREIGN KEY (request_id, requested_by_id) REFERENCES accounts_approvalrequest (id, requested_by_id)
            """,
            reverse_sql="""
                ALTER TABLE accounts_approvaldecision
                DROP CONSTRAINT approval_decision_repeats_the_requester_of_its_request
            """,
        ),
    ]
