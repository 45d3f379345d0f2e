"""Piano onset and velocity detection. The modules, in the order of the data flow:

data            maestro, maps      a dataset's tree -> recordings; splits: training, validation, test
                audio              file -> wave -> log-mel; mp3: files whose header gives a wrong length
                audio_stream       samples as they arrive -> log-mel
                recording          one recording of a dataset
                smf, midi          MIDI file -> timed messages -> notes; keyboard: state machine of keys and pedals
                pianoroll          notes and pedals -> roll
                hdf5, store_names  the pair of stores: write, read, names; steady_file: survives full disks
                chunks, loader     stores -> chunks -> shuffled batches; frame_cache: an uncompressed copy
preprocessing   preprocess         the loop behind 0a and 0b; conf: settings, parts: one recording's share, parallel
model           onset_velocity_net the network of 2022, onsets_and_velocities that of 2023, made of layers; base: shared
                networks           both by name, and the one of a snapshot
                ends, end_stage    the stage for note ends, and its file
                snapshot           weights on disk; sidecar: how they were made, threshold, shift
                incremental        streaming inference that does not recompute past frames
                fast, fast_ends, fast_training optimised CPU versions of the network
                kernels            in C++: plan, steps, native, sparse_conv, winograd, gated_norm (see its README)
training        targets, losses    training targets and loss functions
                step, schedule     one training step, learning rates; batch_norm: re-estimated statistics
                ends               training of the stage for note ends
                stream_ends        chunks that end as a live stream does
                augmentation       data augmentation
                trainer, state     training loop: validates, saves, resumes; snapshots: their names
                processes          data-parallel training in several processes
                cross_validation   validation scores during training; breakpoint, interrupt: debug, stop; time_left
transcription   strided, decoder   long inputs -> maps -> events (events: in bounded memory)
                note_ends          map of note ends -> ends of the events
                transcriber        audio -> table of events; files, stream, midi_writer: files in and out
                streaming          blocks of samples as they arrive -> events as they become final
                streaming_ends     the ends of their notes, somewhat later
evaluation      ground_truth       MIDI files -> reference notes
                scoring, matching  mir_eval's scores; frames: which keys sound
                search, analysis   thresholds and shifts; timing, velocity fit
                evaluate, report   recordings -> events -> tables and files; conf: the settings of script 2
plots           learning_curve, recording, evaluation, transcription, style
transcribe      the command ov-piano transcribe; score, export: two others; __main__: the list of commands
live            the command ov-piano live: shows the notes in the browser while you play; server: pages and sockets,
                service: what streams share, session: one stream, protocol: its messages, guard: who is let in
settings        groups of settings (log-mel, chunks, decoder, tolerances), and options of several scripts
config, cli, log, errors, constants, provenance, resources: shared by all
machine         atomic: atomic writes and locks; device, cores, memory, workers: hardware and processes
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
    """Import public names on first use, so that importing the package is fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
