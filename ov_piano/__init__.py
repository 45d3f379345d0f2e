"""Piano onset and velocity detection. The modules, in the order in which a recording passes them:

data            maestro, maps      a dataset's tree -> recordings; splits: which are for what
                audio              file -> wave -> log-mel; mp3: files whose header gives a wrong length
                audio_stream       samples as they arrive -> log-mel
                recording          what a dataset supplies
                smf, midi          MIDI file -> timed messages -> notes, by the keyboard's state machine (keyboard)
                pianoroll          notes and pedals -> roll
                hdf5, store_names  the pair of stores: write, read, names; steady_file survives full disks
                chunks, loader     stores -> chunks -> shuffled batches; frame_cache: an uncompressed copy
preprocessing   preprocess         the loop behind 0a and 0b; conf: settings, parts: one recording's share, parallel
model           onset_velocity_net the network of 2022, onsets_and_velocities that of 2023, made of layers; base: shared
                networks           both by name, and the one of a snapshot
                snapshot           weights on disk; operating_point: threshold and shift that go with them
                incremental        a stream's latest columns through the network, without computing the past again
                fast, fast_training the same network arranged for speed, on kernels (C++)
training        targets, losses    what is learned
                step, schedule     one step and its learning rate; batch_norm: statistics for use
                augmentation       variations of what is learned from
                trainer, state     a training between steps: validated, saved, resumed; snapshots: their names
                processes          several at once, each with its share of a batch
                cross_validation   scores on the way; breakpoint, interrupt: stopping it
transcription   strided, decoder   long inputs -> maps -> events (events: in bounded memory)
                transcriber        audio -> table of events; files, stream, midi_writer: files in and out
                streaming          blocks of samples as they arrive -> events as they become final
evaluation      ground_truth       MIDI files -> reference notes
                scoring, search    mir_eval's scores, thresholds and shifts; analysis: what they owe to what
                evaluate, report   recordings -> events -> tables and files
plots           learning_curve, recording, evaluation, transcription, style
transcribe      the command ov-piano transcribe; __main__: the list of commands
live            the command ov-piano live: a page in the browser that shows the notes while they are played
settings        values that travel together (frames, chunks, decoder, tolerances), and options of several scripts
config, cli, log, errors, constants, provenance, resources: shared by all
machine         atomic: whole files and locks; device, cores, memory, workers: what the code runs on
"""

from importlib import import_module

from ov_piano.machine.cores import configure_openmp

configure_openmp()
_PUBLIC = {
    "StreamingTranscriber": "ov_piano.transcription.streaming",
    "Transcriber": "ov_piano.transcription.transcriber",
    "load_model": "ov_piano.transcription.transcriber",
    "to_midi": "ov_piano.transcription.midi_writer",
    "write_midi": "ov_piano.transcription.midi_writer",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Public names are imported when first used, so that importing the package stays cheap."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
