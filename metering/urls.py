"""The addresses of this app's pages."""

from django.urls import path

from metering import views
from metering.completeness import completeness_views
from metering.corrections import closing_views, correction_views
from metering.files import file_views
from metering.meters import meter_views
from metering.quarantine import clearance_views
from metering.reading import explorer_views
from metering.retention import retention_views
from metering.usage_backfills import backfill_views

app_name = "metering"
urlpatterns = [
    path("usage/explorer/", explorer_views.explorer, name="explorer"),
    path("usage/explorer/events/", explorer_views.explorer_events, name="explorer-events"),
    path("usage/completeness/", completeness_views.completeness_page, name="completeness"),
    path("usage/completeness/hour/", completeness_views.hour_page, name="completeness-hour"),
    path("usage/completeness/findings/", completeness_views.findings_list, name="findings"),
    path("usage/completeness/acknowledge/", completeness_views.acknowledge, name="acknowledge"),
    path("usage/meters/", meter_views.meter_list, name="meters"),
    path("usage/meters/new/", meter_views.define_page, name="define-meter"),
    path("usage/meters/try/", meter_views.try_draft, name="try-meter"),
    path("usage/meters/<int:meter_id>/", meter_views.meter_page, name="meter"),
    path("usage/meters/<int:meter_id>/version/", meter_views.version_page, name="meter-version"),
    path("usage/meters/<int:meter_id>/change/", meter_views.change, name="change-meter"),
    path("usage/meters/<int:meter_id>/back-fill/", meter_views.ask_backfill, name="ask-backfill"),
    path("usage/back-fills/<int:backfill_id>/", meter_views.backfill_page, name="backfill"),
    path("usage/quarantine/", views.quarantine_page, name="quarantine"),
    path("usage/quarantine/group/", views.quarantine_group, name="quarantine-group"),
    path("usage/quarantine/rule/", clearance_views.rule_page, name="quarantine-rule"),
    path("usage/quarantine/rule/decide/", clearance_views.decide, name="decide-clearance"),
    path("usage/quarantine/rule/<int:clearance_id>/", clearance_views.clearance_page, name="clearance"),
    path(
        "usage/quarantine/rule/<int:clearance_id>/progress/",
        clearance_views.clearance_progress,
        name="clearance-progress",
    ),
    path("usage/quarantine/rule/<int:clearance_id>/stop/", clearance_views.stop, name="stop-clearance"),
    path("usage/quarantine/release/", views.release, name="release"),
    path("usage/quarantine/discard/", views.discard, name="discard"),
    path("usage/after-closing/", closing_views.after_closing, name="after-closing"),
    path("usage/corrections/", correction_views.correction_list, name="corrections"),
    path("usage/corrections/new/", correction_views.new_correction, name="new-correction"),
    path("usage/corrections/<int:correction_id>/", correction_views.correction_page, name="correction"),
    path("usage/corrections/<int:correction_id>/preview/", correction_views.take_preview, name="preview-correction"),
    path("usage/corrections/<int:correction_id>/submit/", correction_views.submit, name="submit-correction"),
    path("usage/corrections/<int:correction_id>/drop/", correction_views.drop, name="drop-correction"),
    path(
        "usage/corrections/<int:correction_id>/leave-out/", correction_views.leave_out, name="leave-out-of-correction"
    ),
    path("usage/corrections/<int:correction_id>/revert/", correction_views.revert, name="revert-correction"),
    path("usage/backfills/", backfill_views.backfill_list, name="usage-backfills"),
    path("usage/backfills/new/", backfill_views.new_backfill, name="new-usage-backfill"),
    path("usage/backfills/<int:backfill_id>/", backfill_views.backfill_page, name="usage-backfill"),
    path("usage/backfills/<int:backfill_id>/preview/", backfill_views.take_preview, name="preview-usage-backfill"),
    path("usage/backfills/<int:backfill_id>/close/", backfill_views.close, name="close-usage-backfill"),
    path("usage/backfills/<int:backfill_id>/abandon/", backfill_views.abandon, name="abandon-usage-backfill"),
    path("usage/backfills/<int:backfill_id>/revert/", backfill_views.revert, name="revert-usage-backfill"),
    path("usage/kafka/", views.kafka_page, name="kafka"),
    path("usage/files/", file_views.file_list, name="files"),
    path("usage/files/receive/", file_views.receive_file, name="receive-file"),
    path("usage/files/<int:file_id>/", file_views.file_page, name="file"),
    path("usage/files/<int:file_id>/parts/<int:number>/", file_views.receive_part, name="file-part"),
    path("usage/files/<int:file_id>/arrived/", file_views.file_arrived, name="file-arrived"),
    path("usage/files/<int:file_id>/layout/", file_views.choose_layout, name="file-layout"),
    path("usage/files/<int:file_id>/backfill/", file_views.choose_backfill, name="file-backfill"),
    path("usage/files/<int:file_id>/mapping/", file_views.keep_mapping, name="file-mapping"),
    path("usage/files/<int:file_id>/progress/", file_views.file_progress, name="file-progress"),
    path("usage/files/<int:file_id>/start/", file_views.start_loading, name="start-file"),
    path("usage/files/<int:file_id>/stop/", file_views.stop_loading, name="stop-file"),
    path("usage/files/<int:file_id>/resume/", file_views.resume_loading, name="resume-file"),
    path("usage/files/<int:file_id>/discard/", file_views.discard_file, name="discard-file"),
    path("usage/batches/", views.batch_list, name="batches"),
    path("usage/batches/<int:batch_id>/", views.batch_page, name="batch"),
    path("usage/retention/", retention_views.retention_page, name="retention"),
    path("usage/retention/months/<str:month>/<slug:step>/", retention_views.take_step, name="retention-step"),
    path("usage/retention/holds/", retention_views.set_hold, name="set-hold"),
    path("usage/retention/holds/<int:hold_id>/lift/", retention_views.lift_hold, name="lift-hold"),
    path("usage/retention/erasures/", retention_views.ask_erasure, name="ask-erasure"),
    path("usage/retention/erasures/new/", retention_views.erasure_page, name="erasure"),
]
