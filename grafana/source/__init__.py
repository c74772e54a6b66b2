# SPDX-License-Identifier: Apache-2.0
"""The dashboards, as code that makes their JSON: queries (PromQL) -> panels -> one module for each dashboard."""
