"""Evaluation: mAP by three protocols, F1 of segments and sound events, errors by kind, classification mAP, AR@AN."""

from d2net.evaluation.ambiguous import drop_ambiguous, load_ambiguous
from d2net.evaluation.classification import classification_ap, classification_map
from d2net.evaluation.error_report import ErrorReport, analyse_errors
from d2net.evaluation.events import EventReport, EventScores, event_scores
from d2net.evaluation.f1 import F1, f1_score
from d2net.evaluation.grid import Grid, evaluate_all
from d2net.evaluation.matching import Protocol, Spans, average_precision, match, parse_iou, score
from d2net.evaluation.prepared import PROTOCOLS
from d2net.evaluation.proposals import average_recall
from d2net.evaluation.release import RELEASE_RATE, Rate, from_fractions, load_fractions, to_snippets
from d2net.evaluation.report import Report, evaluate

__all__ = [
    "F1",
    "PROTOCOLS",
    "RELEASE_RATE",
    "ErrorReport",
    "EventReport",
    "EventScores",
    "Grid",
    "Protocol",
    "Rate",
    "Report",
    "Spans",
    "analyse_errors",
    "average_precision",
    "average_recall",
    "classification_ap",
    "classification_map",
    "drop_ambiguous",
    "evaluate",
    "evaluate_all",
    "event_scores",
    "f1_score",
    "from_fractions",
    "load_ambiguous",
    "load_fractions",
    "match",
    "parse_iou",
    "score",
    "to_snippets",
]
