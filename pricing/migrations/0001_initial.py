"""Products, price books, contracts; the currencies' decimal places; one currency from customer to contract."""

import accounts.request_context
import django.contrib.postgres.constraints
import django.contrib.postgres.fields.ranges
import django.core.validators
import django.db.models.deletion
import django.db.models.lookups
import pgtrigger.compiler
import pgtrigger.migrations
import simple_history.models
from django.conf import settings
from django.db import migrations, models

# Decimal places of every currency in use by ISO 4217 (list one), the same as in pricing.money.
HUNDREDTHS = (
    "AED,AFN,ALL,AMD,ANG,AOA,ARS,AUD,AWG,AZN,BAM,BBD,BDT,BGN,BMD,BND,BOB,BOV,BRL,BSD,BTN,BWP,"
    "BYN,BZD,CAD,CDF,CHE,CHF,CHW,CNY,COP,COU,CRC,CUP,CVE,CZK,DKK,DOP,DZD,EGP,ERN,ETB,EUR,FJD,"
    "FKP,GBP,GEL,GHS,GIP,GMD,GTQ,GYD,HKD,HNL,HTG,HUF,IDR,ILS,INR,IRR,JMD,KES,KGS,KHR,KPW,KYD,"
    "KZT,LAK,LBP,LKR,LRD,LSL,MAD,MDL,MGA,MKD,MMK,MNT,MOP,MRU,MUR,MVR,MWK,MXN,MXV,MYR,MZN,NAD,"
    "NGN,NIO,NOK,NPR,NZD,PAB,PEN,PGK,PHP,PKR,PLN,QAR,RON,RSD,RUB,SAR,SBD,SCR,SDG,SEK,SGD,SHP,"
    "SLE,SOS,SRD,SSP,STN,SVC,SYP,SZL,THB,TJS,TMT,TOP,TRY,TTD,TWD,TZS,UAH,USD,USN,UYU,UZS,VED,"
    "VES,WST,XCD,XCG,YER,ZAR,ZMW,ZWG"
)
NO_MINOR_UNIT = "BIF,CLP,DJF,GNF,ISK,JPY,KMF,KRW,PYG,RWF,UGX,UYI,VND,VUV,XAF,XOF,XPF"
THOUSANDTHS = "BHD,IQD,JOD,KWD,LYD,OMR,TND"
TEN_THOUSANDTHS = "CLF,UYW"


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0001_initial'),
        ('metering', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(
            sql=f"""
                CREATE FUNCTION currency_exponent(code text) RETURNS integer
                LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
                BEGIN
                    IF code = ANY ('{{{HUNDREDTHS}}}') THEN RETURN 2; END IF;
                    IF code = ANY ('{{{NO_MINOR_UNIT}}}') THEN RETURN 0; END IF;
                    IF code = ANY ('{{{THOUSANDTHS}}}') THEN RETURN 3; END IF;
                    IF code = ANY ('{{{TEN_THOUSANDTHS}}}') THEN RETURN 4; END IF;
                    -- A CHECK takes NULL for yes, so an unknown code must not answer with it.
                    RAISE EXCEPTION '% is not a currency code of ISO 4217.', quote_literal(code)
                        USING ERRCODE = 'check_violation', CONSTRAINT = 'currency_is_known';
                END
                $$;
            """,
            reverse_sql="DROP FUNCTION currency_exponent(text)",
        ),
        migrations.CreateModel(
            name='Price',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('spec', models.JSONField(verbose_name='price')),
            ],
            options={
                'ordering': ('version', 'product'),
            },
        ),
        migrations.CreateModel(
            name='PriceBookVersion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField()),
                ('status', models.CharField(choices=[('draft', 'Draft'), ('in_review', 'In review'), ('approved', 'Approved'), ('live', 'Live'), ('superseded', 'Superseded')], default='draft', max_length=20)),
                ('effective_from', models.DateTimeField(blank=True, null=True)),
                ('valid_during', django.contrib.postgres.fields.ranges.DateTimeRangeField(blank=True, null=True)),
                ('notes', models.TextField(blank=True, verbose_name='what changes and why')),
                ('content_hash', models.BinaryField(max_length=32, null=True)),
                ('created_at', models.DateTimeField()),
            ],
            options={
                'ordering': ('book', '-number'),
            },
        ),
        migrations.CreateModel(
            name='Product',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('code', models.CharField(max_length=120, verbose_name='SKU')),
                ('name', models.CharField(max_length=254)),
                ('group', models.CharField(max_length=120, verbose_name='group on the invoice')),
                ('dimension_filter', models.JSONField(blank=True, default=dict, verbose_name='dimension values it takes')),
                ('unit', models.CharField(max_length=60)),
                ('is_active', models.BooleanField(default=True, verbose_name='active')),
            ],
            options={
                'ordering': ('group', 'name'),
            },
        ),
        migrations.CreateModel(
            name='HistoricalPriceBook',
            fields=[
                ('id', models.BigIntegerField(auto_created=True, blank=True, db_index=True, verbose_name='ID')),
                ('request_id', models.CharField(blank=True, default=accounts.request_context.current_request_id, max_length=64)),
                ('code', models.SlugField(max_length=80)),
                ('name', models.CharField(max_length=150)),
                ('currency', models.CharField(max_length=3, validators=[django.core.validators.RegexValidator('^[A-Z]{3}$', 'Use the three capital letters of ISO 4217, such as EUR.')])),
                ('description', models.TextField(blank=True)),
                ('history_change_reason', models.TextField(null=True)),
                ('history_id', models.AutoField(primary_key=True, serialize=False)),
                ('history_date', models.DateTimeField(db_index=True)),
                ('history_type', models.CharField(choices=[('+', 'Created'), ('~', 'Changed'), ('-', 'Deleted')], max_length=1)),
                ('history_user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'historical price book',
                'verbose_name_plural': 'historical price books',
                'ordering': ('-history_date', '-history_id'),
                'get_latest_by': ('history_date', 'history_id'),
            },
            bases=(simple_history.models.HistoricalChanges, models.Model),
        ),
        migrations.CreateModel(
            name='HistoricalProduct',
            fields=[
                ('id', models.BigIntegerField(auto_created=True, blank=True, db_index=True, verbose_name='ID')),
                ('request_id', models.CharField(blank=True, default=accounts.request_context.current_request_id, max_length=64)),
                ('code', models.CharField(max_length=120, verbose_name='SKU')),
                ('name', models.CharField(max_length=254)),
                ('group', models.CharField(max_length=120, verbose_name='group on the invoice')),
                ('dimension_filter', models.JSONField(blank=True, default=dict, verbose_name='dimension values it takes')),
                ('unit', models.CharField(max_length=60)),
                ('is_active', models.BooleanField(default=True, verbose_name='active')),
                ('history_change_reason', models.TextField(null=True)),
                ('history_id', models.AutoField(primary_key=True, serialize=False)),
                ('history_date', models.DateTimeField(db_index=True)),
                ('history_type', models.CharField(choices=[('+', 'Created'), ('~', 'Changed'), ('-', 'Deleted')], max_length=1)),
                ('history_user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('meter', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='metering.meter')),
            ],
            options={
                'verbose_name': 'historical product',
                'verbose_name_plural': 'historical products',
                'ordering': ('-history_date', '-history_id'),
                'get_latest_by': ('history_date', 'history_id'),
            },
            bases=(simple_history.models.HistoricalChanges, models.Model),
        ),
        migrations.CreateModel(
            name='PriceBook',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('code', models.SlugField(max_length=80)),
                ('name', models.CharField(max_length=150)),
                ('currency', models.CharField(max_length=3, validators=[django.core.validators.RegexValidator('^[A-Z]{3}$', 'Use the three capital letters of ISO 4217, such as EUR.')])),
                ('description', models.TextField(blank=True)),
            ],
            options={
                'ordering': ('name',),
                'constraints': [models.UniqueConstraint(fields=('code',), name='price_book_code_is_unique'), models.UniqueConstraint(fields=('id', 'currency'), name='price_book_currency_can_be_referenced'), models.CheckConstraint(condition=models.Q(('currency__regex', '^[A-Z]{3}$')), name='price_book_currency_is_a_code'), models.CheckConstraint(condition=django.db.models.lookups.GreaterThanOrEqual(models.Func(models.F('currency'), function='currency_exponent', output_field=models.IntegerField()), 0), name='price_book_currency_is_known')],
            },
        ),
        migrations.CreateModel(
            name='HistoricalPriceBookVersion',
            fields=[
                ('id', models.BigIntegerField(auto_created=True, blank=True, db_index=True, verbose_name='ID')),
                ('request_id', models.CharField(blank=True, default=accounts.request_context.current_request_id, max_length=64)),
                ('number', models.PositiveIntegerField()),
                ('status', models.CharField(choices=[('draft', 'Draft'), ('in_review', 'In review'), ('approved', 'Approved'), ('live', 'Live'), ('superseded', 'Superseded')], default='draft', max_length=20)),
                ('effective_from', models.DateTimeField(blank=True, null=True)),
                ('valid_during', django.contrib.postgres.fields.ranges.DateTimeRangeField(blank=True, null=True)),
                ('notes', models.TextField(blank=True, verbose_name='what changes and why')),
                ('content_hash', models.BinaryField(max_length=32, null=True)),
                ('created_at', models.DateTimeField()),
                ('history_change_reason', models.TextField(null=True)),
                ('history_id', models.AutoField(primary_key=True, serialize=False)),
                ('history_date', models.DateTimeField(db_index=True)),
                ('history_type', models.CharField(choices=[('+', 'Created'), ('~', 'Changed'), ('-', 'Deleted')], max_length=1)),
                ('approval', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.approvalrequest')),
                ('created_by', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('history_user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('book', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='pricing.pricebook')),
            ],
            options={
                'verbose_name': 'historical price book version',
                'verbose_name_plural': 'historical price book versions',
                'ordering': ('-history_date', '-history_id'),
                'get_latest_by': ('history_date', 'history_id'),
            },
            bases=(simple_history.models.HistoricalChanges, models.Model),
        ),
        migrations.CreateModel(
            name='HistoricalContract',
            fields=[
                ('id', models.BigIntegerField(auto_created=True, blank=True, db_index=True, verbose_name='ID')),
                ('request_id', models.CharField(blank=True, default=accounts.request_context.current_request_id, max_length=64)),
                ('currency', models.CharField(max_length=3, validators=[django.core.validators.RegexValidator('^[A-Z]{3}$', 'Use the three capital letters of ISO 4217, such as EUR.')])),
                ('starts_on', models.DateField()),
                ('ends_on', models.DateField(blank=True, null=True, verbose_name='ends on (excluded)')),
                ('anchor_day', models.PositiveSmallIntegerField(default=1, verbose_name='billing day of the month')),
                ('created_at', models.DateTimeField()),
                ('history_change_reason', models.TextField(null=True)),
                ('history_id', models.AutoField(primary_key=True, serialize=False)),
                ('history_date', models.DateTimeField(db_index=True)),
                ('history_type', models.CharField(choices=[('+', 'Created'), ('~', 'Changed'), ('-', 'Deleted')], max_length=1)),
                ('customer', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.customer')),
                ('history_user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('price_book', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='pricing.pricebook')),
            ],
            options={
                'verbose_name': 'historical contract',
                'verbose_name_plural': 'historical contracts',
                'ordering': ('-history_date', '-history_id'),
                'get_latest_by': ('history_date', 'history_id'),
            },
            bases=(simple_history.models.HistoricalChanges, models.Model),
        ),
        migrations.CreateModel(
            name='Contract',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('currency', models.CharField(max_length=3, validators=[django.core.validators.RegexValidator('^[A-Z]{3}$', 'Use the three capital letters of ISO 4217, such as EUR.')])),
                ('starts_on', models.DateField()),
                ('ends_on', models.DateField(blank=True, null=True, verbose_name='ends on (excluded)')),
                ('anchor_day', models.PositiveSmallIntegerField(default=1, verbose_name='billing day of the month')),
                ('created_at', models.DateTimeField()),
                ('customer', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='contracts', to='accounts.customer')),
                ('price_book', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='contracts', to='pricing.pricebook')),
            ],
            options={
                'ordering': ('customer', '-starts_on'),
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebook',
            trigger=pgtrigger.compiler.Trigger(name='price_book_keeps_its_code_and_currency', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN ((OLD.id, OLD.code, OLD.currency) IS DISTINCT FROM (NEW.id, NEW.code, NEW.currency))', func="RAISE EXCEPTION 'A price book keeps its code and its currency.' USING ERRCODE = 'check_violation', CONSTRAINT = 'price_book_keeps_its_code_and_currency';", hash='31563d30fb4203ea3a4b3d30ccd084286a6a28d5', operation='UPDATE', pgid='pgtrigger_price_book_keeps_its_code_and_currency_9cfd7', table='pricing_pricebook', when='BEFORE')),
        ),
        migrations.AddField(
            model_name='pricebookversion',
            name='approval',
            field=models.OneToOneField(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.approvalrequest'),
        ),
        migrations.AddField(
            model_name='pricebookversion',
            name='book',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='pricing.pricebook'),
        ),
        migrations.AddField(
            model_name='pricebookversion',
            name='created_by',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='price',
            name='version',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='prices', to='pricing.pricebookversion'),
        ),
        migrations.AddField(
            model_name='product',
            name='meter',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='products', to='metering.meter'),
        ),
        migrations.AddField(
            model_name='price',
            name='product',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='prices', to='pricing.product'),
        ),
        migrations.AddConstraint(
            model_name='contract',
            constraint=models.CheckConstraint(condition=models.Q(('anchor_day__gte', 1), ('anchor_day__lte', 31)), name='contract_anchor_is_a_day_of_the_month'),
        ),
        migrations.AddConstraint(
            model_name='contract',
            constraint=models.CheckConstraint(condition=models.Q(('ends_on__isnull', True), ('ends_on__gt', models.F('starts_on')), _connector='OR'), name='contract_ends_after_it_starts'),
        ),
        migrations.AddConstraint(
            model_name='contract',
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(models.Func(models.F('customer'), models.F('customer'), models.Value('[]'), function='int8range'), '&&'), (models.Func(models.F('starts_on'), models.F('ends_on'), models.Value('[)'), function='daterange'), '&&')], name='customer_has_one_contract_at_a_time'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='contract',
            trigger=pgtrigger.compiler.Trigger(name='contract_terms_never_change', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN ((OLD.id, OLD.customer_id, OLD.price_book_id, OLD.currency, OLD.starts_on, OLD.anchor_day) IS DISTINCT FROM (NEW.id, NEW.customer_id, NEW.price_book_id, NEW.currency, NEW.starts_on, NEW.anchor_day))', func="RAISE EXCEPTION 'A contract can be ended, not rewritten.' USING ERRCODE = 'check_violation', CONSTRAINT = 'contract_terms_never_change';", hash='910ee47e2a6fc8ce2d477adf3e0733998db10f76', operation='UPDATE', pgid='pgtrigger_contract_terms_never_change_791c2', table='pricing_contract', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.UniqueConstraint(fields=('book', 'number'), name='price_book_version_number_is_unique'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.UniqueConstraint(condition=models.Q(('status__in', ['draft', 'in_review'])), fields=('book',), name='price_book_has_one_open_draft'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.UniqueConstraint(condition=models.Q(('status', 'live')), fields=('book',), name='price_book_has_one_live_version'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(condition=models.Q(('status__in', ['approved', 'live', 'superseded'])), expressions=[(models.Func(models.F('book'), models.F('book'), models.Value('[]'), function='int8range'), '&&'), ('valid_during', '&&')], name='approved_versions_never_overlap'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['draft', 'in_review', 'approved', 'live', 'superseded'])), name='price_book_version_status_is_known'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['draft', 'in_review']), models.Q(('valid_during__isnull', False), ('valid_during__isempty', False), ('effective_from__isnull', False), ('content_hash__isnull', False), ('approval__isnull', False)), _connector='OR'), name='approved_version_has_period_hash_and_approval'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status__in', ['draft', 'in_review']), _negated=True), models.Q(('approval__isnull', True), ('content_hash__isnull', True), ('valid_during__isnull', True)), _connector='OR'), name='unapproved_version_has_no_period_hash_or_approval'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.CheckConstraint(condition=models.Q(('status', 'draft'), ('effective_from__isnull', False), _connector='OR'), name='submitted_version_says_when_it_takes_effect'),
        ),
        migrations.AddConstraint(
            model_name='pricebookversion',
            constraint=models.CheckConstraint(condition=models.Q(('valid_during__isnull', True), ('valid_during__startswith', models.F('effective_from')), _connector='OR'), name='version_is_valid_from_when_it_takes_effect'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebookversion',
            trigger=pgtrigger.compiler.Trigger(name='version_begins_as_draft', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN (NEW.status <> 'draft')", func="RAISE EXCEPTION 'A version begins as a draft.' USING ERRCODE = 'check_violation', CONSTRAINT = 'version_begins_as_draft';", hash='1d69e16ca681829ba009d532570b999c74e80066', operation='INSERT', pgid='pgtrigger_version_begins_as_draft_6094e', table='pricing_pricebookversion', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebookversion',
            trigger=pgtrigger.compiler.Trigger(name='version_status_follows_its_order', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN (OLD.status <> NEW.status AND (OLD.status, NEW.status) NOT IN (('draft', 'in_review'), ('in_review', 'draft'), ('in_review', 'approved'), ('approved', 'live'), ('live', 'superseded')))", func="RAISE EXCEPTION 'A version does not go from this status to that one.' USING ERRCODE = 'check_violation', CONSTRAINT = 'version_status_follows_its_order';", hash='5003a2425372cc55df2140184f167c94d0612322', operation='UPDATE', pgid='pgtrigger_version_status_follows_its_order_4159b', table='pricing_pricebookversion', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebookversion',
            trigger=pgtrigger.compiler.Trigger(name='submitted_version_never_changes', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n        IF (OLD.id, OLD.book_id, OLD.number, OLD.created_at, OLD.created_by_id)\n            IS DISTINCT FROM (NEW.id, NEW.book_id, NEW.number, NEW.created_at, NEW.created_by_id)\n            OR OLD.status <> 'draft' AND (\n                (OLD.effective_from, OLD.notes) IS DISTINCT FROM (NEW.effective_from, NEW.notes)\n            )\n            OR OLD.status IN ('approved', 'live', 'superseded') AND (\n                (OLD.content_hash, OLD.approval_id) IS DISTINCT FROM (NEW.content_hash, NEW.approval_id)\n                OR OLD.valid_during IS DISTINCT FROM NEW.valid_during AND (\n                    NEW.valid_during IS NULL OR isempty(NEW.valid_during)\n                    OR NOT upper_inf(OLD.valid_during) OR upper_inf(NEW.valid_during)\n                    OR lower(OLD.valid_during) IS DISTINCT FROM lower(NEW.valid_during)\n                )\n            )\n            OR OLD.status = 'in_review' AND NEW.status = 'approved' AND NOT coalesce(upper_inf(NEW.valid_during), false)\n        THEN\n            RAISE EXCEPTION 'A submitted version does not change.' USING ERRCODE = 'check_violation', CONSTRAINT = 'submitted_version_never_changes';\n        END IF;\n        RETURN NEW;\n    ", hash='ab30db7332941a04b6fb96d49d558ff88c55613d', operation='UPDATE', pgid='pgtrigger_submitted_version_never_changes_1433e', table='pricing_pricebookversion', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebookversion',
            trigger=pgtrigger.compiler.Trigger(name='only_a_draft_version_is_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN (OLD.status <> 'draft')", func="RAISE EXCEPTION 'Only a draft is deleted.' USING ERRCODE = 'check_violation', CONSTRAINT = 'only_a_draft_version_is_deleted';", hash='ebd24e39244c77dff6cb102d667af74cad6bc829', operation='DELETE', pgid='pgtrigger_only_a_draft_version_is_deleted_cd3c9', table='pricing_pricebookversion', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='pricebookversion',
            trigger=pgtrigger.compiler.Trigger(name='versions_are_never_truncated', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'This table is never emptied.' USING ERRCODE = 'check_violation', CONSTRAINT = 'versions_are_never_truncated';", hash='fd9e22a41d1524fc8a73d4a176bcb53620d269f1', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_versions_are_never_truncated_3a8fd', table='pricing_pricebookversion', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='product',
            constraint=models.UniqueConstraint(fields=('code',), name='product_code_is_unique'),
        ),
        migrations.AddConstraint(
            model_name='product',
            constraint=models.CheckConstraint(condition=models.Q(('meter__isnull', False), ('dimension_filter', {}), _connector='OR'), name='product_without_meter_has_no_filter'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='product',
            trigger=pgtrigger.compiler.Trigger(name='priced_product_keeps_its_usage', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN ((OLD.id, OLD.code, OLD.meter_id, OLD.dimension_filter, OLD.unit) IS DISTINCT FROM (NEW.id, NEW.code, NEW.meter_id, NEW.dimension_filter, NEW.unit))', declare='DECLARE found record;', func="\n        FOR found IN\n            SELECT version.status FROM pricing_pricebookversion version\n            JOIN pricing_price price ON price.version_id = version.id\n            WHERE price.product_id = OLD.id\n            ORDER BY version.id\n            FOR SHARE OF version\n        LOOP\n            IF found.status <> 'draft' THEN\n                RAISE EXCEPTION 'A product that has a submitted price keeps its usage.' USING ERRCODE = 'check_violation', CONSTRAINT = 'priced_product_keeps_its_usage';\n            END IF;\n        END LOOP;\n        RETURN NEW;\n    ", hash='9ebdd272e0d5ab07649020ed90ee7ec9388c05a4', operation='UPDATE', pgid='pgtrigger_priced_product_keeps_its_usage_18d55', table='pricing_product', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='price',
            constraint=models.UniqueConstraint(fields=('version', 'product'), name='price_is_unique_per_version_and_product'),
        ),
        migrations.AddConstraint(
            model_name='price',
            constraint=models.CheckConstraint(condition=models.Q(('spec__has_key', 'model')), name='price_names_its_model'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='price',
            trigger=pgtrigger.compiler.Trigger(name='prices_change_only_in_a_draft', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE found record;', func="\n        FOR found IN\n            SELECT status FROM pricing_pricebookversion\n            WHERE id IN (\n                CASE WHEN TG_OP <> 'INSERT' THEN OLD.version_id END,\n                CASE WHEN TG_OP <> 'DELETE' THEN NEW.version_id END\n            )\n            ORDER BY id\n            FOR SHARE\n        LOOP\n            IF found.status <> 'draft' THEN\n                RAISE EXCEPTION 'Prices change only while their version is a draft.' USING ERRCODE = 'check_violation', CONSTRAINT = 'prices_change_only_in_a_draft';\n            END IF;\n        END LOOP;\n        IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;\n        RETURN NEW;\n    ", hash='3d7d2d2a5ad52091f3bc4eddc634baf3a7f0cae1', operation='INSERT OR UPDATE OR DELETE', pgid='pgtrigger_prices_change_only_in_a_draft_3faed', table='pricing_price', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='price',
            trigger=pgtrigger.compiler.Trigger(name='prices_are_never_truncated', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'This table is never emptied.' USING ERRCODE = 'check_violation', CONSTRAINT = 'prices_are_never_truncated';", hash='16a7a7fa3b450384077d15343c96af013941d4bc', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_prices_are_never_truncated_ba02e', table='pricing_price', when='BEFORE')),
        ),
        migrations.RunSQL(
            sql="""
                ALTER TABLE pricing_contract
                    ADD CONSTRAINT contract_currency_is_the_customers
                    FOREIGN KEY (customer_id, currency) REFERENCES accounts_customer (id, currency),
                    ADD CONSTRAINT contract_currency_is_the_price_books
                    FOREIGN KEY (price_book_id, currency) REFERENCES pricing_pricebook (id, currency);
            """,
            reverse_sql="""
                ALTER TABLE pricing_contract
                    DROP CONSTRAINT contract_currency_is_the_customers,
                    DROP CONSTRAINT contract_currency_is_the_price_books;
            """,
        ),
    ]
