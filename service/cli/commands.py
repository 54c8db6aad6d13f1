"""The subcommands and their options. Each imports what it needs when it runs: torch takes seconds.

Exit codes: 0 all is well, 1 the service or the model failed, 2 the input or an option is unusable.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from service.cli.display import complain
from service.settings import CLIENT_KEY, Settings, unknown_variables, variable

app = typer.Typer(
    name="earshot",
    help="Speech to text: audio in, Whisper tokens out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

UNUSABLE = 2

Model = Annotated[
    str | None,
    typer.Option(help="`builtin`, a folder, a file or a hub id. EARSHOT_MODEL", show_default=False),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, cuda:1. EARSHOT_DEVICE", show_default=False)
]
Dtype = Annotated[
    str | None,
    typer.Option(help="auto, float32, bfloat16, float16. EARSHOT_DTYPE", show_default=False),
]
Numerics = Annotated[
    str | None,
    typer.Option(
        help="auto, plain, packed, bfloat16, mixed, mixed-decoder, int8. EARSHOT_NUMERICS",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="where the model has none. EARSHOT_TOKENIZER", show_default=False),
]


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def serve(  # noqa: PLR0913 - a command line has options
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. EARSHOT_HOST", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one. EARSHOT_PORT", show_default=False)
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    numerics: Numerics = None,
    tokenizer: Tokenizer = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning, error. EARSHOT_LOG_LEVEL", show_default=False),
    ] = None,
) -> None:
    """Serve a model over HTTP. Every EARSHOT_* variable is described in docs/api.md."""
    settings = read_settings(
        host=host,
        port=port,
        model=model,
        device=device,
        dtype=dtype,
        numerics=numerics,
        tokenizer=tokenizer,
        log_level=log_level,
    )
    from service.cli.serve import serve_forever  # noqa: PLC0415 - loads the web framework

    serve_forever(settings)


@app.command()
def transcribe(  # noqa: PLR0913 - a command line has options
    files: Annotated[list[Path], typer.Argument(help="Recordings in any common format.")],
    server: Annotated[
        str | None, typer.Option(help="Address of a running service, instead of a model here.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language, such as `en`.")] = None,
    task: Annotated[
        Literal["transcribe", "translate"] | None,
        typer.Option(help="Or translate into English.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token.", show_default=False)
    ] = None,
    chunking: Annotated[
        Literal["sequential", "parallel"] | None,
        typer.Option(
            help="Or cut at pauses and decode the parts of a file at once.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file, with segments and times.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=CLIENT_KEY, help="Key for the service.", show_default=False),
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    numerics: Numerics = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Write what is said in recordings: final text on stdout, progress on stderr."""
    options = {
        "language": language,
        "task": task,
        "temperature": temperature,
        "chunking": chunking,
    }
    from service.cli import transcribe as command  # noqa: PLC0415 - brings the HTTP client

    source: command.Source
    if server is not None:
        source = command.RemoteSource(server, options, api_key)
    else:
        settings = read_settings(
            model=model, device=device, dtype=dtype, numerics=numerics, tokenizer=tokenizer
        )
        from service.cli.local import LocalSource  # noqa: PLC0415 - brings torch

        source = LocalSource(settings, options)
    raise typer.Exit(asyncio.run(command.transcribe_files(files, source, as_json=as_json)))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="`builtin`, a folder, a file or a hub id.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    tokenizer: Tokenizer = None,
) -> None:
    """Say what is in a model: dimensions, parameters, tokens, metadata, checksums, tensors."""
    settings = read_settings(model=model, tokenizer=tokenizer)
    from service.cli.inspect import inspect_model  # noqa: PLC0415 - brings torch

    raise typer.Exit(inspect_model(settings, as_json=as_json))


@app.command()
def tensors(
    model: Annotated[str, typer.Argument(help="`builtin`, a folder, a file or a hub id.")],
    stats: Annotated[
        bool, typer.Option("--stats", help="Mean, std, min, max, NaN and Inf, dequantised.")
    ] = False,
    part: Annotated[
        str | None, typer.Option("--filter", help="Only names with this in them.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="List at most so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the tensors of a model, under the names that stand in the file."""
    settings = read_settings(model=model)
    from service.cli.inspect import show_tensors  # noqa: PLC0415 - brings torch

    code = show_tensors(settings, part=part, limit=limit, with_stats=stats, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="`builtin`, a folder, a file or a hub id.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    tokenizer: Tokenizer = None,
) -> None:
    """Check a model: checksums, shapes, numbers, filterbank, tokenizer. Exit code 0 or 2."""
    settings = read_settings(model=model, tokenizer=tokenizer)
    from service.cli.inspect import validate_model  # noqa: PLC0415 - brings torch

    raise typer.Exit(validate_model(settings, as_json=as_json))


@app.command()
def flow(
    model: Annotated[str, typer.Argument(help="`builtin`, a folder, a file or a hub id.")],
    layer: Annotated[
        str | None, typer.Option(help="A number, or a part such as decoder.layers.3.")
    ] = None,
    component: Annotated[
        str, typer.Option(help="full, encoder, decoder, self_attn, cross_attn or ffn.")
    ] = "full",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Min, max, mean, std and NaN count of each weight.")
    ] = False,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="No box characters.")] = False,
    tokenizer: Tokenizer = None,
) -> None:
    """Draw a model's data flow, from audio to tokens, with what the file really holds."""
    settings = read_settings(model=model, tokenizer=tokenizer)
    from service.cli.flow import flow_model  # noqa: PLC0415 - brings torch

    code = flow_model(
        settings,
        component=component,
        layer=layer,
        as_json=as_json,
        with_stats=stats,
        ascii_only=ascii_only,
    )
    raise typer.Exit(code)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="`builtin`, a folder, a file or a hub id.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="NAME.apr, NAME.pt, or a folder to make.")
    ],
    quantize: Annotated[
        Literal["f16", "q8", "q4", "int8"] | None,
        typer.Option(help="q8 and q4 for .apr; int8 for its first layout.", show_default=False),
    ] = None,
    target_format: Annotated[
        Literal["apr-v1", "apr-v2", "hf", "openai"] | None,
        typer.Option("--format", help="Instead of what DST's name says.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file.")] = False,
    tokenizer: Tokenizer = None,
) -> None:
    """Write a model in another format, its tokenizer and filterbank with it."""
    settings = read_settings(model=source, tokenizer=tokenizer)
    from service.cli.convert import convert_model  # noqa: PLC0415 - brings torch

    code = convert_model(
        settings, target, quantize=quantize, target_format=target_format, overwrite=overwrite
    )
    raise typer.Exit(code)


def read_settings(**options: object) -> Settings:
    """Return the settings, options before environment; name each unusable one on stderr.

    Raises:
        typer.Exit: if there is one.
    """
    for sentence in unknown_variables():
        complain(f"warning: {sentence}")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            field = str(problem["loc"][0])
            name = f"--{field.replace('_', '-')}" if field in given else variable(field)
            given_value = "" if field == "api_keys" else f"={problem['input']}"  # never a key
            complain(f"{name}{given_value}: {problem['msg']}")
        raise typer.Exit(UNUSABLE) from None
