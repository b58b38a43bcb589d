"""What is far away: the broker, the API that models are published to."""

import asyncio
from functools import partial

from azaion.config import ConfigError, PublishTarget, SecretReference, Source
from azaion.environment import resolve
from azaion.settings import Api
from supervisor.doctor.model import Diagnosis, Patient, ill, weak, well
from supervisor.health.broker import BrokerLook
from supervisor.health.looks import Seen
from supervisor.health.model import Verdict
from supervisor.health.network import Place, look_at_api


async def broker(patient: Patient) -> list[Diagnosis]:
    """Whether the broker takes our name and has our stream."""
    if patient.config is None:
        return []
    settings = patient.config.rabbitmq
    if patient.config.daemon.source is not Source.RABBITMQ or settings is None:
        return [well("broker", f"not needed: AZAION_SOURCE={patient.config.daemon.source}")]
    secret = partial(resolve, settings.password, patient.environ, patient.env_file)
    return [_said("broker", seen) for seen in await BrokerLook(settings, secret)()]


async def publishing(patient: Patient) -> list[Diagnosis]:
    """Whether the API answers, and the CDN takes the keys that it gives, if models are published to them."""
    if patient.config is None:
        return []
    api = patient.config.api
    if patient.config.daemon.publish_target is not PublishTarget.AZAION or api is None:
        return [well("publishing", f"not to the API: AZAION_PUBLISH_TARGET={patient.config.daemon.publish_target}")]
    found = [_said("publishing", seen) for seen in await look_at_api(Place.of_url(api.url, api.ca))]
    if any(each.verdict is not Verdict.OK for each in found):
        return found
    return await _far_ends(api, patient)


async def _far_ends(api: Api, patient: Patient) -> list[Diagnosis]:
    """Whether the API takes our login, and the CDN the keys that the API gives us."""
    try:
        # Not every server has what publishing needs.
        from azaion.publishing.access import Patience  # noqa: PLC0415
        from azaion.publishing.api import AzaionApi  # noqa: PLC0415
        from azaion.publishing.cdn import Cdn  # noqa: PLC0415
        from azaion.publishing.errors import PublishingError  # noqa: PLC0415
        from azaion.publishing.targets import access_of  # noqa: PLC0415
    except ImportError as error:
        cure = "install azaion-training[publish], or set AZAION_PUBLISH_TARGET=none"
        return [ill("publishing", f"a library is missing: {error.name}", cure)]
    brief, said = Patience(silence_s=10.0, attempts=1), []
    try:
        async with AzaionApi(access_of(api, patient.environ, patient.env_file), brief) as session:
            await session.login()
            said.append(well("publishing", f"{api.url} takes the login {api.email}"))
            keys = await session.cdn(api.folder)
        bucket = keys.bucket or api.cdn_bucket or api.folder
        cdn = Cdn(keys, bucket=bucket, region=keys.region or api.cdn_region, authority=api.cdn_ca, patience=brief)
        await asyncio.to_thread(cdn.greet)
        said.append(well("cdn", f"{keys.host} takes the keys of readers and writers for {bucket}"))
    except ConfigError as error:
        cure = "put AZAION_API_PASSWORD where publishing finds it"
        said.append(ill("publishing", " ".join(str(error).split()), cure))
    except PublishingError as error:
        if said:
            cure = "ask whoever runs the platform for its cdn.yaml; docs/publishing.md says what is in it"
            said.append(ill("cdn", str(error), cure))
        else:
            said.append(ill("publishing", str(error), "check AZAION_API_EMAIL and AZAION_API_PASSWORD"))
    return said


def alerts(patient: Patient) -> list[Diagnosis]:
    """Whether somebody hears of alerts; `azaionctl alerts test` shows whether they arrive."""
    if patient.declarations is None:
        return []
    channels = patient.declarations.alerts.channels
    if not channels:
        cure = "declare a channel in azaion.yaml: docs/alerts.md; then: azaionctl alerts test"
        return [weak("alerts", "no channel is declared: nobody hears of trouble who does not look", cure)]
    said = []
    for channel in channels:
        if isinstance(channel.url, SecretReference):
            try:
                resolve(channel.url, patient.environ, patient.env_file)
            except ConfigError as error:
                text = f"channel {channel.name}: {' '.join(str(error).split())}"
                said.append(weak("alerts", text, f"give {channel.url.variable} to azaiond; azaionctl alerts test"))
    return said or [well("alerts", f"to {', '.join(channel.name for channel in channels)}")]


def _said(name: str, seen: Seen) -> Diagnosis:
    if seen.verdict is Verdict.OK:
        return well(name, seen.text)
    return ill(name, " ".join(seen.text.split()), seen.advice)
