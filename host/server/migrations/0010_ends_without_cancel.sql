-- A run that ended otherwise than as cancelled was not cancelled: what a request whose write failed may have left goes with
-- its end. Whichever of the triggers of an end comes first, the end of a run that was cancelled is not touched.
CREATE TRIGGER writes_end_without_cancel INSTEAD OF INSERT ON writes WHEN NEW.kind = 'end' AND NEW.v2 <> 'cancelled' BEGIN
    DELETE FROM cancels WHERE run = (
        SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND stop_reason IS NOT 'cancelled'
    );
END;
