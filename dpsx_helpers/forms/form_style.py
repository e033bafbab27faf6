"""How forms look, and the sentence that stands in for a form whose kernel has ended.

JupyterLab leaves the widgets of an ended kernel on the page: with the class `jupyter-widgets-disconnected`, or, after
a reload, as a line «Error displaying widget» in an element of class `jupyter-widgets`. A form is therefore two
outputs, the widget and STANDBY after it; the style sheet shows one of the two. STANDBY is `hidden` where that style
sheet means nothing, as on a page that nbconvert makes; where a notebook is not trusted, JupyterLab takes both the
style sheet and `hidden` away, and the sentence shows, as it should.
"""

ENDED = "This form belongs to a kernel that has ended: run its cell again."

_CHILD = ".jp-NotebookPanel .jp-OutputArea-child"
_GONE = f"{_CHILD}:has(.jupyter-widgets):not(:has(.dpsx-form))"  # model not found
_DEAD = f"{_CHILD}:has(.dpsx-form.jupyter-widgets-disconnected)"
_NEXT = "+ .jp-OutputArea-child .dpsx-ended"

_ENDED_STYLE = f"""
{_GONE} {_NEXT}, {_DEAD} {_NEXT} {{ display: block; }}
{_GONE}:has({_NEXT}), {_DEAD}:has({_NEXT}) {{ display: none; }}
.dpsx-ended {{
  margin: 0.3em 0; padding: 0.3em 0.8em; border-left: 4px solid var(--jp-warn-color1, #a04800);
  color: var(--jp-ui-font-color1, inherit);
}}
"""

# ipywidgets' arrow is black, in dark themes too.
_ARROW = (
    "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath d='M4 6.5l5 5 5-5' fill='none' stroke='%23888' stroke-width='2'/%3E%3C/svg%3E\")"
)
_LOOK = """
.dpsx-form {
  --jp-widgets-inline-width: 100%; --jp-widgets-inline-label-width: auto; --jp-widgets-dropdown-arrow: {arrow};
  box-sizing: border-box; width: 100%; max-width: 46rem; overflow: visible; gap: 0.9rem;
  margin: 0.3rem 0; padding: 0.9rem 1.1rem 1rem; border: 1px solid var(--jp-border-color1, #bdbdbd);
  border-radius: 4px; color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color1, transparent);
}
.dpsx-form .widget-box, .dpsx-form .widget-html, .dpsx-form .widget-html-content { overflow: visible; height: auto; }
.dpsx-form > * { margin-left: 0; margin-right: 0; }
.dpsx-form .dpsx-title { font-size: 1.2em; font-weight: 600; line-height: 1.4; }
.dpsx-form .dpsx-intro, .dpsx-form .dpsx-note { display: block; line-height: 1.45; overflow-wrap: anywhere; }
.dpsx-form .dpsx-note { padding: 0.1em 0 0.1em 0.6em; border-left: 3px solid transparent; }
.dpsx-form .widget-html:has(.dpsx-note:empty) { display: none; }
.dpsx-form .dpsx-hint { border-color: var(--jp-border-color2, #e0e0e0); }
.dpsx-form .dpsx-good { border-color: var(--jp-success-color1, #388e3c); }
.dpsx-form .dpsx-bad { border-color: var(--jp-error-color1, #d32f2f); }
.dpsx-form .dpsx-status { padding: 0.4em 0.7em; background: var(--jp-layout-color2, transparent); }
.dpsx-form .dpsx-field { width: 100%; gap: 0.2rem; }
.dpsx-form .dpsx-field > * { width: 100%; max-width: 100%; margin-left: 0; margin-right: 0; box-sizing: border-box; }
.dpsx-form .widget-text, .dpsx-form .widget-dropdown, .dpsx-form .widget-textarea, .dpsx-form .widget-radio {
  flex-direction: column; align-items: stretch; height: auto; width: 100%; max-width: 100%;
}
.dpsx-form .widget-label {
  width: auto; max-width: 100%; height: auto; margin: 0 0 0.15rem; padding: 0; text-align: left; white-space: normal;
  overflow-wrap: anywhere; line-height: 1.4; font-weight: 600; color: var(--jp-ui-font-color1, inherit);
}
.dpsx-form input[type="text"], .dpsx-form input[type="password"], .dpsx-form select, .dpsx-form textarea {
  width: 100%; max-width: 100%; min-width: 0; box-sizing: border-box; height: 2.2em; flex: none;
}
.dpsx-form textarea { height: auto; font-family: var(--jp-code-font-family, monospace); resize: vertical; }
.dpsx-form .widget-radio-box { width: 100%; margin: 0; gap: 0.2rem; }
.dpsx-form .widget-radio-box label {
  display: flex; flex-direction: row-reverse; justify-content: flex-end; align-items: baseline; gap: 0.5em;
  width: auto; height: auto;
}
.dpsx-form .widget-radio-box label input { height: auto; margin: 0; flex: none; position: relative; top: 0.1em; }
.dpsx-form .widget-radio-box label, .dpsx-form .widget-checkbox .widget-label-basic {
  line-height: 1.5; white-space: normal; overflow-wrap: anywhere; font-weight: normal;
}
.dpsx-form .widget-checkbox { width: 100%; height: auto; }
.dpsx-form .widget-checkbox .widget-label-basic {
  display: flex; align-items: baseline; gap: 0.5em; width: auto; height: auto; margin: 0;
}
.dpsx-form .widget-checkbox input { margin: 0; flex: none; width: auto; height: auto; position: relative; top: 0.1em; }
.dpsx-form .jupyter-button {
  width: auto; max-width: 100%; height: auto; min-height: 2.2em; margin: 0; padding: 0.2em 1em; white-space: normal;
  overflow-wrap: anywhere; align-self: flex-start; line-height: 1.4; border: 1px solid var(--jp-border-color1, #bdbdbd);
  border-radius: 2px;
}
.dpsx-form .jupyter-button:focus-visible, .dpsx-form input:focus-visible, .dpsx-form select:focus-visible,
.dpsx-form textarea:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
.dpsx-form .dpsx-row { flex-flow: row wrap; gap: 0.5rem; width: 100%; align-items: center; }
.dpsx-form .dpsx-ticks { gap: 0.2rem; width: 100%; }
.dpsx-form .dpsx-list {
  container-type: inline-size; width: 100%; gap: 0; border-top: 1px solid var(--jp-border-color2, #e0e0e0);
}
.dpsx-form .dpsx-list > * {
  display: grid; grid-template-columns: minmax(8em, 3fr) minmax(5em, 1fr) minmax(8em, 1.6fr) minmax(8em, 5fr);
  width: 100%; gap: 0 0.8rem; align-items: baseline; margin: 0; padding: 0.3rem 0;
  border-bottom: 1px solid var(--jp-border-color2, #e0e0e0);
}
.dpsx-form .dpsx-list > * > * { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@container (max-width: 36em) {
  .dpsx-form .dpsx-list > * { grid-template-columns: minmax(0, 2fr) minmax(0, 1fr) minmax(0, 1.6fr); }
  .dpsx-form .dpsx-list > * > :last-child { grid-column: 1 / -1; }
}
.dpsx-form .dpsx-list .widget-html-content { line-height: 1.5; }
.dpsx-form .dpsx-head { font-weight: 600; font-size: 0.9em; }
"""

STANDBY = f'<style>{_LOOK.replace("{arrow}", _ARROW)}{_ENDED_STYLE}</style><p class="dpsx-ended" hidden>{ENDED}</p>'
