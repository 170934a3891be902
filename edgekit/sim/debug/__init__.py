"""The debug port of virtual boards: what openocd, pyOCD and through them GDB attach to.

========== =====================================================================
core       the CPU's debug registers: halt, step, registers, breakpoints, reset
dap        the debug port and the access ports behind it (ADIv5)
wire       the pins: JTAG and Serial Wire, bit by bit
runner     runs a board's CPU, its boot ROM and the debugger's accesses in one thread
server     a TCP port for debuggers, and which protocol it is
bitbang    OpenOCD's remote_bitbang: the pins themselves
stlink     ST's stlink-server with a virtual ST-LINK behind it
remote     pyOCD's probe server
========== =====================================================================

Sources: Arm Debug Interface v5.2 (IHI 0031), ARMv7-M Architecture Reference Manual (DDI 0403)
part C, ARMv6-M (DDI 0419) part C, ARMv8-M (DDI 0553) chapter B11.
"""
