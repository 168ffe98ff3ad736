"""Reads TD quotes, a TD report and event logs with evidence-api, which is not ours; prints what it found as JSON.

Arguments: a file each as `quote=FILE` (version 4), `report=FILE` or `log=FILE`. The list that is printed is in their
order.
"""

import json
import pathlib
import sys

from evidence_api.eventlog import EventLogs, TcgEventLog
from evidence_api.tcg import TcgAlgorithmRegistry
from evidence_api.tdx.common import TDX_VERSION_1_5
from evidence_api.tdx.quote import TdxQuote
from evidence_api.tdx.report import TdReport

# What the library calls a trust domain, and the registers of its log: MRTD is 0.
TDX = 1
RTMRS = range(1, 5)


def quote(data):
    body = TdxQuote(data).get_quoted_data()
    rtmrs = [body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3]
    return {"mrtd": body.mrtd.hex(), "rtmrs": [value.hex() for value in rtmrs], "report_data": body.reportdata.hex()}


def report(data):
    report = TdReport(data)
    report.parse(TDX_VERSION_1_5)
    domain = report.td_info
    rtmrs = [domain.rtmr_0, domain.rtmr_1, domain.rtmr_2, domain.rtmr_3]
    report_data = report.report_mac_struct.report_data
    return {"mrtd": domain.mrtd.hex(), "rtmrs": [value.hex() for value in rtmrs], "report_data": report_data.hex()}


def log(data):
    logs = EventLogs(data, None, TDX, TcgEventLog.TCG_FORMAT_PCCLIENT)
    logs.select(None, None)
    replayed = EventLogs.replay(logs.event_logs)
    sha384 = TcgAlgorithmRegistry.TPM_ALG_SHA384
    return {"rtmrs": [bytes(replayed.get(rtmr, {}).get(sha384, bytes(48))).hex() for rtmr in RTMRS]}


found = []
for argument in sys.argv[1:]:
    kind, name = argument.split("=", 1)
    found.append({"quote": quote, "report": report, "log": log}[kind](pathlib.Path(name).read_bytes()))
print(json.dumps(found))
