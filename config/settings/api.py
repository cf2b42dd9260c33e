"""How the API speaks, and how its description is served."""

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.errors.problem_response",
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Countinghouse",
    "DESCRIPTION": (
        "Usage in, and read back. Every request carries `Authorization: Bearer ch_...`, an API key with the scope that"
        " its door names. Decimals are texts, exact; moments are RFC 3339 with their offset; every refusal is a problem"
        " (RFC 9457) with a stable `code`. 429 and 503 took nothing and say in Retry-After when to send the same again."
    ),
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "metering.door.api_schema.describe_events",
        "metering.completeness.completeness_api.describe_control_totals",
        "metering.reading.usage_api_schema.describe_reads",
    ],
}
