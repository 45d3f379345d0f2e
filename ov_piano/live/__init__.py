"""A page in the browser that shows the notes of a piano while it is played: ``python -m ov_piano.live``.

__main__   the command: settings -> service -> web server
service    what all streams share: the network, worker threads, places
session    one client: samples in, notes and log-mel columns out
protocol   the messages between page and server, checked
server     addresses of the site; guard: who may talk to it
page       the files of the page: `main.js` is their table of contents
"""
