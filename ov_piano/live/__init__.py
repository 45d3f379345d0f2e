"""A browser page that transcribes a piano live: ``python -m ov_piano.live``.

__main__   the command: settings -> service -> web server
service    shared by all streams: the network, worker threads, the limit on streams
session    one client: samples in, notes and log-mel columns out
protocol   messages between page and server, and their validation
server     routes of the site; guard: who may access it
page       the files of the page; start reading at `main.js`
"""
