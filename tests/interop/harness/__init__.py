"""The parts that the interop tests and the benchmarks share.

    base       temporary folder, child processes, ports, waiting
    certs      a throw-away CA and the certificates that it issues, by openssl
    dns        nsd with the zone `test.`
    relay      the binary under test, its configuration and its commands
    receiver   an SMTP receiver with any manners, in Python
    peers      receivers that others wrote: Postfix's smtp-sink, and a whole Postfix
    messages   what is sent, byte by byte, and how it is compared with what arrived
    report     runs named cases and says how they went

Only the standard library of Python 3 is used. All traffic stays on 127.0.0.0/8.
"""
