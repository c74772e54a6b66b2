# SPDX-License-Identifier: Apache-2.0
"""From a probe to descriptors: headers, generated C, compiled bytecode, loaded programs, attachments."""
